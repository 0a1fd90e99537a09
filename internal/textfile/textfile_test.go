package textfile

import "testing"

func TestCutMark(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "a": "a", "\xef\xbb\xbfa": "a", "\xef\xbb": "\xef\xbb", "\xef\xbb\xbf": "", "a\ufeff": "a\ufeff",
		"\ufeff\ufeff": "\ufeff",
	} {
		if got, err := CutMark([]byte(text)); err != nil || string(got) != want {
			t.Errorf("%q became %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"\xff\xfea\x00", "\xfe\xff\x00a", "\x00\x00\xfe\xff", "\xff\xfe\x00\x00"} {
		if _, err := CutMark([]byte(text)); err != ErrUTF16 {
			t.Errorf("%q: %v", text, err)
		}
	}
}
