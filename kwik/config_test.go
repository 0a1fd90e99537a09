package kwik

import (
	"net"
	"reflect"
	"strings"
	"testing"

	"github.com/quic-go/quic-go"
)

// leaves calls f for every exported field of a configuration that is no struct of this package,
// with its path.
func leaves(v reflect.Value, path string, f func(path string, v reflect.Value)) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if !field.IsExported() {
			continue // for this package's tests
		}
		name := path + field.Name
		if field.Anonymous {
			name = strings.TrimSuffix(path, ".")
		}
		if field.Type.Kind() == reflect.Struct {
			leaves(v.Field(i), strings.TrimPrefix(name+".", "."), f)
			continue
		}
		f(name, v.Field(i))
	}
}

// Every number of a configuration is checked, or clipped where its comment says so.
func TestConfigValidate(t *testing.T) {
	clipped := map[string]bool{
		"SecondaryStreams.MaxStreamsPerPath": true, "SecondaryStreams.StreamTimeout": true, "SecondaryStreams.MetadataTimeout": true,
		"SecondaryStreams.BufferSize":           true,
		"SecondaryStreams.AggregationBatchSize": true, // negative means no batches
		"Recovery.Mapping.MaxRetries":           true, // negative means none
	}
	enumerations := map[string]bool{
		"Family": true, "ConflictResolution": true, "Recovery.Aggregation": true, "Recovery.Metadata": true, "Role": true,
	}
	check := func(name string, conf any, validate func() error) {
		leaves(reflect.ValueOf(conf).Elem(), "", func(path string, v reflect.Value) {
			if !v.CanInt() {
				return
			}
			for _, x := range []int64{-1, 0, 1, 1 << 20} {
				v.SetInt(x)
				allowed := x >= 0 || clipped[path]
				if enumerations[path] && x == 1<<20 {
					allowed = false
				}
				err := validate()
				if (err == nil) != allowed {
					t.Errorf("%s.%s = %d: %v", name, path, x, err)
				}
				if err != nil && !strings.Contains(err.Error(), name+"."+path) {
					t.Errorf("%s.%s = %d: the error does not name the field: %v", name, path, x, err)
				}
			}
			v.SetInt(0)
		})
	}
	client, server := &ClientConfig{}, &ServerConfig{}
	check("ClientConfig", client, client.validate)
	check("ServerConfig", server, server.validate)
}

// Dial and Listen return the validator's error before they touch the network.
func TestConfigIsValidated(t *testing.T) {
	if _, err := Dial(t.Context(), nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, nil, &ClientConfig{SourceTimeout: -1}); err == nil {
		t.Error("Dial accepts a negative SourceTimeout")
	}
	if _, err := DialAddr(t.Context(), "127.0.0.1:1", nil, &ClientConfig{SourceTimeout: -1}); err == nil {
		t.Error("DialAddr accepts a negative SourceTimeout")
	}
	if _, err := Listen(nil, pinned([32]byte{}), &ServerConfig{MaxSessions: -1}); err == nil {
		t.Error("Listen accepts a negative MaxSessions")
	}
}

// Every field has a default, or zero is its effective value.
func TestConfigDefaults(t *testing.T) {
	zero := map[string]bool{
		"RateLimit": true, "Family": true,
		"ConnectionsPerServer": true, "Inspect": true, "ConflictResolution": true,
		"Recovery.Aggregation": true, "Recovery.Metadata": true,
		"Role": true, "OpenContent": true, "Software": true, "StatelessResetKey": true, "JoinToken": true, "Verify": true,
		"TokenKey": true, "Credential": true, "Access": true, "Authorize": true,
	}
	for _, conf := range []any{(*ClientConfig)(nil), (*ServerConfig)(nil)} {
		var effective reflect.Value
		switch conf := conf.(type) {
		case *ClientConfig:
			c, err := conf.effective()
			if err != nil {
				t.Fatal(err)
			}
			effective = reflect.ValueOf(c).Elem()
		case *ServerConfig:
			c, err := conf.effective()
			if err != nil {
				t.Fatal(err)
			}
			effective = reflect.ValueOf(c).Elem()
		}
		leaves(effective, "", func(path string, v reflect.Value) {
			if v.IsZero() && !zero[path] {
				t.Errorf("%v: %s has no default", effective.Type(), path)
			}
		})
	}
}

// A clone equals the original and shares nothing that either may change.
func TestConfigClone(t *testing.T) {
	shared := map[string]bool{"RateLimit": true, "StatelessResetKey": true, "TokenKey": true, "JoinToken": true} // no code changes them
	check := func(conf, clone reflect.Value) {
		copies := make(map[string]reflect.Value)
		leaves(clone, "", func(path string, v reflect.Value) { copies[path] = v })
		leaves(conf, "", func(path string, v reflect.Value) {
			if v.IsZero() {
				t.Errorf("the test does not set %v.%s", conf.Type(), path)
			}
			switch v.Kind() {
			case reflect.Func:
				if v.Pointer() != copies[path].Pointer() {
					t.Errorf("%v.%s is another function", conf.Type(), path)
				}
			default:
				if !reflect.DeepEqual(v.Interface(), copies[path].Interface()) {
					t.Errorf("%v.%s: %v, cloned %v", conf.Type(), path, v, copies[path])
				}
				if v.Kind() == reflect.Pointer || v.Kind() == reflect.Slice || v.Kind() == reflect.Map {
					if v.Pointer() == copies[path].Pointer() && !shared[path] {
						t.Errorf("%v.%s is shared with the clone", conf.Type(), path)
					}
				}
			}
		})
	}
	client, server := &ClientConfig{}, &ServerConfig{}
	fill(t, reflect.ValueOf(client).Elem())
	fill(t, reflect.ValueOf(server).Elem())
	check(reflect.ValueOf(client).Elem(), reflect.ValueOf(client.Clone()).Elem())
	check(reflect.ValueOf(server).Elem(), reflect.ValueOf(server.clone()).Elem())
}

// fill gives every field a value that is not its zero value.
func fill(t *testing.T, conf reflect.Value) {
	leaves(conf, "", func(path string, v reflect.Value) {
		switch {
		case v.CanInt():
			v.SetInt(1)
		case v.Kind() == reflect.Bool:
			v.SetBool(true)
		case v.Kind() == reflect.String:
			v.SetString("x")
		case v.Kind() == reflect.Func:
			v.Set(reflect.MakeFunc(v.Type(), func([]reflect.Value) []reflect.Value { panic("not called") }))
		case v.Kind() == reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		case v.Type() == reflect.TypeFor[*quic.Config]():
			v.Set(reflect.ValueOf(&quic.Config{InitialPacketSize: 1300}))
		case v.Kind() == reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
		default:
			t.Errorf("the test cannot set %s", path)
		}
	})
}
