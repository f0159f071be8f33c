package xds

import (
	"testing"

	"google.golang.org/protobuf/types/known/structpb"
)

// Typed metadata become the corresponding kinds of the node's.
func TestNode_KindsOfMetadata(t *testing.T) {
	node, err := NewNode(NodeConfig{MetadataJSON: map[string]any{
		"OBJECT": map[string]any{"a": nil}, "ARRAY": []any{1.0}, "BOOL": false, "NUMBER": 7.0, "NULL": nil, "STRING": "x",
	}})
	if err != nil {
		t.Fatal(err)
	}
	fields := node.GetMetadata().GetFields()
	for name, is := range map[string]func(*structpb.Value) bool{
		"OBJECT": func(v *structpb.Value) bool { return v.GetStructValue() != nil },
		"ARRAY":  func(v *structpb.Value) bool { return len(v.GetListValue().GetValues()) == 1 },
		"BOOL": func(v *structpb.Value) bool {
			k, ok := v.GetKind().(*structpb.Value_BoolValue)
			return ok && !k.BoolValue
		},
		"NUMBER": func(v *structpb.Value) bool { return v.GetNumberValue() == 7 },
		"NULL":   func(v *structpb.Value) bool { _, ok := v.GetKind().(*structpb.Value_NullValue); return ok },
		"STRING": func(v *structpb.Value) bool { return v.GetStringValue() == "x" },
	} {
		if v := fields[name]; v == nil || !is(v) {
			t.Errorf("metadata %s = %v, want its kind", name, v)
		}
	}
}
