package webfile

import (
	"strings"
	"testing"
)

func TestNetrc(t *testing.T) {
	text := "# a comment\nmachine a.example login u password p # another\n" +
		"machine b.example\n\tlogin \"two words\"\n\tpassword \"q\\\"\\\\\\n\"\n" +
		"machine a.example login second password second\n" +
		"macdef init\nmachine m.example login x\ncd /pub\n\n" +
		"machine C.example account z password only\ndefault login anonymous password me\n"
	n, err := ReadNetrc(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string][2]string{
		"a.example": {"u", "p"}, "A.EXAMPLE": {"u", "p"}, "b.example": {"two words", "q\"\\\n"},
		"c.example": {"", "only"}, "m.example": {"anonymous", "me"}, "other": {"anonymous", "me"},
	} {
		if user, password, ok := n.For(host, false); !ok || user != want[0] || password != want[1] {
			t.Errorf("%s: %q %q %t", host, user, password, ok)
		}
	}
	if user, _, ok := n.For("other", true); ok {
		t.Errorf("a redirect gets the default login %q", user)
	}
	if user, _, _ := n.For("a.example", true); user != "u" {
		t.Errorf("a redirect to a host with an entry gets %q", user)
	}
	none, err := ReadNetrc(strings.NewReader("machine a login u"))
	if _, _, ok := none.For("b", false); err != nil || ok {
		t.Errorf("a host without an entry has one: %v", err)
	}
	tooLong := strings.Repeat(" ", maxNetrc+1)
	for _, bad := range []string{"machine", "login u", "machine a login", "machine a\nfoo bar", tooLong} {
		if _, err := ReadNetrc(strings.NewReader(bad)); err == nil || strings.Contains(err.Error(), "foo") {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

func FuzzNetrc(f *testing.F) {
	f.Add("machine a login b password c", "a")
	f.Add("default login \"x\\", "")
	f.Add("macdef x\n\n\nmachine a", "a")
	f.Fuzz(func(t *testing.T, text, host string) {
		n, err := ReadNetrc(strings.NewReader(text))
		if err != nil {
			if strings.Count(err.Error(), "\n") > 0 {
				t.Errorf("an error of several lines: %q", err)
			}
			return
		}
		user, password, ok := n.For(host, len(text)%2 == 0)
		if !ok && user+password != "" {
			t.Errorf("%q %q without an entry", user, password)
		}
	})
}
