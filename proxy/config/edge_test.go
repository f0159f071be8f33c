package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"
)

// Typed metadata have the kinds of JSON, and those have the kinds of the node that they become a part of.
func TestMetadataOfEveryKind(t *testing.T) {
	c := loaded(t, t.TempDir(),
		`ISTIO_METAJSON_OBJECT={"a": {"b": null}}`, `ISTIO_METAJSON_ARRAY=[1, "x", true]`, "ISTIO_METAJSON_BOOL=false", "ISTIO_METAJSON_INT=7",
		"ISTIO_METAJSON_FLOAT=-1.5", "ISTIO_METAJSON_NULL=null", `ISTIO_METAJSON_STRING="text"`)
	want := map[string]any{
		"OBJECT": map[string]any{"a": map[string]any{"b": nil}}, "ARRAY": []any{1.0, "x", true}, "BOOL": false, "INT": 7.0, "FLOAT": -1.5, "NULL": nil, "STRING": "text",
	}
	if diff := cmp.Diff(want, c.ProxyMetadataJSON); diff != "" {
		t.Errorf("ProxyMetadataJSON (-want +got):\n%s", diff)
	}
	if _, err := structpb.NewStruct(c.ProxyMetadataJSON); err != nil {
		t.Errorf("the node cannot have them: %v", err)
	}
}
