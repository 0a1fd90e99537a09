package cmd

import (
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"kwikcp/internal/trust"
	"kwikcp/kwik"
)

// A list of revoked tokens that is being written lacks names for a moment. They stay revoked.
func TestAttackHalfWrittenRevocations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "revoked")
		write := func(content string) {
			t.Helper()
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("lab7\nlab8\n")
		log := slog.New(slog.NewTextHandler(io.Discard, nil))
		a, err := parseServeAccess(&serveOptions{requireToken: true, revoked: file}, kwik.ServerRolePrimary, log)
		if err != nil {
			t.Fatal(err)
		}
		key := [32]byte{1}
		a.RequireToken(key)
		accepts := func(name string) bool {
			token := trust.AccessToken{Name: name, Paths: []string{""}, Issued: time.Now()}
			text, err := token.Sign(key)
			if err != nil {
				t.Fatal(err)
			}
			_, err = a.Authorize(kwik.AuthorizeRequest{RemoteAddr: &net.UDPAddr{}, Credential: []byte(text)})
			return err == nil
		}
		check := func(moment string, want map[string]bool) {
			t.Helper()
			for name, accepted := range want {
				if accepts(name) != accepted {
					t.Errorf("%s: %s is accepted: %v", moment, name, !accepted)
				}
			}
		}
		check("at the start", map[string]bool{"lab7": false, "lab8": false, "lab9": true})
		for _, part := range []string{"", "lab", "lab7\n", "lab7\nlab"} {
			write(part)
			a.reload()
			a.reload() // SIGHUP and the ticker at the same moment
			check("half written", map[string]bool{"lab7": false, "lab8": false, "lab9": true})
			time.Sleep(revokedSettleTime / 2)
			a.reload()
			check("and a moment later", map[string]bool{"lab7": false, "lab8": false, "lab9": true})
		}
		write("lab7\nlab9\n")
		a.reload()
		check("a new name", map[string]bool{"lab7": false, "lab8": false, "lab9": false, "lab": false})
		time.Sleep(certificateInterval)
		a.reload()
		check("taken back", map[string]bool{"lab7": false, "lab8": true, "lab9": false, "lab": true})
		write("\x01\n")
		a.reload()
		time.Sleep(certificateInterval)
		a.reload()
		check("a list that cannot be used", map[string]bool{"lab7": false, "lab9": false})
		os.Remove(file)
		a.reload()
		time.Sleep(certificateInterval)
		a.reload()
		check("no list", map[string]bool{"lab7": false, "lab9": false})
		write("")
		a.reload()
		check("an empty list", map[string]bool{"lab7": false, "lab9": false})
		time.Sleep(certificateInterval)
		a.reload()
		check("an empty list that stays", map[string]bool{"lab7": true, "lab9": true})
	})
}
