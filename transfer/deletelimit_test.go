package transfer

import (
	"errors"
	"strings"
	"testing"
)

func TestDeleteLimit(t *testing.T) {
	for _, c := range []struct {
		limit string // "" for the default
		loss  loss
		want  string // in the error; "" for none
	}{
		{"", loss{0, 0, 0, 0}, ""},
		{"", loss{0, 5, 0, 0}, ""}, // all of it is protected
		{"", loss{1, 5, 0, 0}, "the source is empty, and 1 of 5 entries"},
		{"", loss{9, 9, 1, 0}, ""}, // a small target
		{"", loss{5, 10, 5, 0}, ""},
		{"", loss{6, 10, 4, 0}, "6 of 10 entries would be deleted, more than half; nothing was deleted"},
		{"", loss{6, 11, 4, 0}, "6 of 11"},
		{"", loss{10, 10, 1, 0}, "10 of 10"},
		{"", loss{6, 8, 2, 1}, ""},
		{"", loss{6, 8, 2, 2}, "6 of 8 entries would be deleted, more than half"}, // 2 that may have moved
		{"", loss{4, 8, 4, 100}, ""},
		{"0", loss{0, 10, 10, 0}, ""},
		{"0", loss{1, 10, 10, 0}, "at most 0 may be"},
		{"7", loss{7, 7, 0, 0}, ""},
		{"7", loss{8, 1000, 1000, 0}, "8 of 1000 entries would be deleted, and at most 7 may be; nothing was deleted"},
		{"100%", loss{1000, 1000, 0, 0}, ""},
		{"0%", loss{1, 1000, 1, 0}, "at most 0% may be"},
		{"20%", loss{2, 10, 1, 0}, ""},
		{"20%", loss{3, 10, 1, 0}, "at most 20% may be"},
		{"33%", loss{1, 3, 1, 0}, "1 of 3"},
		{"34%", loss{1, 3, 1, 0}, ""},
		{"9223372036854775807", loss{1 << 40, 1 << 40, 0, 0}, ""},
	} {
		limit := DeleteLimit{}
		if c.limit != "" {
			var err error
			if limit, err = ParseDeleteLimit(c.limit); err != nil {
				t.Fatal(err)
			}
		}
		err := limit.check(c.loss)
		if e, ok := errors.AsType[*DeleteLimitError](err); (err != nil) != (c.want != "") ||
			ok && !strings.Contains(e.Error(), c.want) {
			t.Errorf("limit %q of %+v: %v, want %q", c.limit, c.loss, err, c.want)
		}
	}
	for _, text := range []string{"", "%", "-1", "+1", "1.5", "1.5%", "101%", "1e3", " 1", "1 %", "10k",
		"9223372036854775808", "1%%", "x", "١"} {
		if limit, err := ParseDeleteLimit(text); err == nil {
			t.Errorf("%q is %+v", text, limit)
		}
	}
}

// FuzzParseDeleteLimit checks that a limit that parses allows nothing beyond itself.
func FuzzParseDeleteLimit(f *testing.F) {
	for _, text := range []string{"0", "17", "50%", "100%", "101%", "", "%"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		limit, err := ParseDeleteLimit(text)
		if err != nil {
			return
		}
		const of = 1 << 40
		most := limit.n
		if limit.kind == limitPercent {
			most = of / 100 * limit.n
		}
		beyond := most + of/100 + 1
		if beyond > 0 && beyond <= of && limit.check(loss{deleted: beyond, of: of, listed: of}) == nil {
			t.Errorf("%q allows %d of %d", text, beyond, of)
		}
	})
}
