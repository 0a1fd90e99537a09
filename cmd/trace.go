package cmd

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlog"

	"kwikcp/transfer"
)

// quicConfig returns the QUIC configuration of a command. If QLOGDIR is set, each connection writes
// a trace into that directory. The directory is checked here because quic-go would end the process
// if it could not write there.
func quicConfig() (*quic.Config, error) {
	dir := os.Getenv("QLOGDIR")
	if dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, transfer.LocalError(fmt.Sprintf("make QLOGDIR %q", dir), err)
	}
	probe, err := os.CreateTemp(dir, "kwikcp-")
	if err != nil {
		return nil, transfer.LocalError(fmt.Sprintf("write to QLOGDIR %q", dir), err)
	}
	probe.Close()
	os.Remove(probe.Name())
	return &quic.Config{Tracer: qlog.DefaultConnectionTracer}, nil
}

// keyLogFile returns the name of the file of SSLKEYLOGFILE, empty if there is none. With it
// recorded traffic can be read, so it is a secret.
func keyLogFile() string { return os.Getenv("SSLKEYLOGFILE") }

// keyLog returns the file of SSLKEYLOGFILE, nil if there is none. It stays open until the process
// ends.
var keyLog = sync.OnceValue(func() io.Writer {
	if keyLogFile() == "" {
		return nil
	}
	f, err := os.OpenFile(keyLogFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil
	}
	return f
})
