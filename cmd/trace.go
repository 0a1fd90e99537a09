package cmd

import (
	"io"
	"os"
	"sync"
)

// keyLog returns the file of SSLKEYLOGFILE, for reading captured traffic; nil if there is none. It stays open until the
// process ends.
var keyLog = sync.OnceValue(func() io.Writer {
	name := os.Getenv("SSLKEYLOGFILE")
	if name == "" {
		return nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil
	}
	return f
})
