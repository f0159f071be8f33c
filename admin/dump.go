package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// dump is the page /config_dump. Its readers (istioctl, Kiali) need lists that
// are never null; keys are sorted at all levels, so that two dumps can be
// compared.
type dump struct {
	log *slog.Logger

	mu       sync.Mutex // guards sections
	sections map[string]func() (any, error)

	making chan struct{} // holds a token while a dump is made: it can be large
	rested time.Time     // when the next one may begin; of who has the token
}

func (d *dump) add(name string, f func() (any, error)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sections == nil {
		d.sections = map[string]func() (any, error){}
	}
	d.sections[name] = f
}

func (d *dump) section(name string) func() (any, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sections[name]
}

// ServeHTTP implements http.Handler, for any method.
func (d *dump) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := d.make(r.Context())
	if r.Context().Err() != nil {
		return // the client is gone
	}
	if err != nil {
		d.log.Error("config dump failed", slog.Any("error", err))
		text(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // the client is gone
}

func (d *dump) make(ctx context.Context) ([]byte, error) {
	turn, err := d.turn(ctx)
	if err != nil {
		return nil, fmt.Errorf("wait for other dumps: %w", err)
	}
	defer turn.end()
	d.mu.Lock()
	sections := maps.Clone(d.sections)
	d.mu.Unlock()
	var b bytes.Buffer
	b.WriteByte('{')
	for i, name := range slices.Sorted(maps.Keys(sections)) {
		if i > 0 {
			b.WriteByte(',')
		}
		value, err := sections[name]()
		if err != nil {
			return nil, fmt.Errorf("section %s: %w", name, err)
		}
		fmt.Fprintf(&b, "\n  %q: ", name)
		if err := turn.writeSection(&b, value); err != nil {
			return nil, fmt.Errorf("section %s: %w", name, err)
		}
	}
	b.WriteString("\n}")
	return b.Bytes(), nil
}

// writeSection writes the value of a section. Lists are written one element
// after the other, which keeps the memory of a large dump down.
func (t *turn) writeSection(b *bytes.Buffer, value any) error {
	v := reflect.ValueOf(value)
	if _, own := value.(json.Marshaler); !own && v.Kind() == reflect.Slice && v.Type().Elem().Kind() != reflect.Uint8 {
		return t.writeList(b, v)
	}
	if v.Kind() == reflect.Map && v.IsNil() {
		b.WriteString("{}")
		return nil
	}
	text, err := indent(value, "  ")
	if err != nil {
		return err
	}
	b.Write(text)
	return t.pause()
}

func (t *turn) writeList(b *bytes.Buffer, v reflect.Value) error {
	if v.Len() == 0 {
		b.WriteString("[]")
		return nil
	}
	b.WriteByte('[')
	for i := range v.Len() {
		if i > 0 {
			b.WriteByte(',')
		}
		// By its address, so that methods of pointers are found too.
		text, err := indent(v.Index(i).Addr().Interface(), "    ")
		if err != nil {
			return err
		}
		b.WriteString("\n    ")
		b.Write(text)
		if err := t.pause(); err != nil {
			return err
		}
	}
	b.WriteString("\n  ]")
	return nil
}

// indent is the JSON of a value with sorted keys and two spaces per level; all
// lines but the first begin with prefix.
func indent(value any, prefix string) ([]byte, error) {
	tree, err := generic(value)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent(prefix, "  ")
	if err := e.Encode(tree); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// generic is a value as maps, lists and scalars. Maps are what encoding/json
// sorts; fields of structs it does not.
func generic(value any) (any, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return nil, err
	}
	d := json.NewDecoder(&b)
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return nil, err
	}
	return tree, nil
}

// certs shows the section "certificates" as a table.
func (s *Server) certs(w http.ResponseWriter, _ *http.Request) {
	var list []struct {
		Identity             string
		State                string
		CertChain, RootCerts []struct{ SerialNumber, ValidFrom, ExpirationTime string }
	}
	if err := s.decodeSection("certificates", &list); err != nil {
		text(w, http.StatusInternalServerError, err.Error())
		return
	}
	var rows, table bytes.Buffer
	row := func(cells ...string) { rows.WriteString(strings.Join(cells, "\t") + "\n") }
	row("IDENTITY", "KIND", "STATE", "SERIAL NUMBER", "VALID FROM", "EXPIRES")
	for _, c := range list {
		if len(c.CertChain) == 0 {
			row(c.Identity, "leaf", c.State, "-", "-", "-")
		}
		for i, cert := range c.CertChain {
			kind := "intermediate"
			if i == 0 {
				kind = "leaf"
			}
			row(c.Identity, kind, c.State, cert.SerialNumber, cert.ValidFrom, cert.ExpirationTime)
		}
		for _, cert := range c.RootCerts {
			row(c.Identity, "root", c.State, cert.SerialNumber, cert.ValidFrom, cert.ExpirationTime)
		}
	}
	aligned := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	_, err := rows.WriteTo(aligned)
	if err = errors.Join(err, aligned.Flush()); err != nil {
		text(w, http.StatusInternalServerError, err.Error())
		return
	}
	text(w, http.StatusOK, table.String())
}

// decodeSection reads a section of the dump into a value; one that does not
// exist leaves it as it is.
func (s *Server) decodeSection(name string, into any) error {
	f := s.dump.section(name)
	if f == nil {
		return nil
	}
	value, err := f()
	if err != nil {
		return err
	}
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}
