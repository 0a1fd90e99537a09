//go:build unix

package kwik_test

import (
	"context"
	"io"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/kwik"
)

// BenchmarkThroughput moves 256 MiB over loopback, with servers and client in one process,
// without proof and disk. native is one stream of quic-go with KWIK's windows, or one stream
// for each MiB. The others are an aggregate stream of one source and of three. CPU is that of
// the whole process; heap is the highest live heap after a garbage collection.
func BenchmarkThroughput(b *testing.B) {
	b.Run("native", func(b *testing.B) { benchmarkNative(b, benchSize) })
	b.Run("native, a stream per MiB", func(b *testing.B) { benchmarkNative(b, 1<<20) })
	b.Run("kwik of one", func(b *testing.B) { benchmarkKWIK(b, 0) })
	b.Run("kwik of three", func(b *testing.B) { benchmarkKWIK(b, 2) })
}

const benchSize = 256 << 20

// zeros is a Content, and the destination of CopyTo.
type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error)  { return len(p), nil }
func (zeros) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (zeros) Close() error                           { return nil }

// measure runs transfer b.N times and reports its metrics. transfer returns the bytes that the
// client received on the wire.
func measure(b *testing.B, transfer func() (wire uint64)) {
	var most atomic.Uint64
	done := make(chan struct{})
	ended := make(chan struct{})
	runtime.GC()
	go func() {
		defer close(ended)
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
				metrics.Read(sample)
				most.Store(max(most.Load(), sample[0].Value.Uint64()))
			}
		}
	}()
	b.SetBytes(benchSize)
	before := cpuTime(b)
	var wire uint64
	for b.Loop() {
		wire += transfer()
	}
	cpu := cpuTime(b) - before
	close(done)
	<-ended
	b.ReportMetric(cpu.Seconds()/float64(b.N)*(1<<30)/benchSize, "cpu-s/GiB")
	b.ReportMetric(float64(most.Load())/(1<<20), "heap-MiB")
	b.ReportMetric(100*(float64(wire)/float64(b.N)/benchSize-1), "%wire")
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchmarkNative(b *testing.B, perStream int) {
	serverTLS, clientTLS := tlsConfigs(b)
	conf := &quic.Config{
		InitialStreamReceiveWindow: 4 << 20, MaxStreamReceiveWindow: 8 << 20,
		InitialConnectionReceiveWindow: 8 << 20, MaxConnectionReceiveWindow: 12 << 20,
	}
	l, err := quic.ListenAddr("127.0.0.1:0", serverTLS, conf)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	client, err := quic.DialAddr(b.Context(), l.Addr().String(), clientTLS, conf)
	if err != nil {
		b.Fatal(err)
	}
	defer client.CloseWithError(0, "")
	server, err := l.Accept(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	out, in := make([]byte, 256<<10), make([]byte, 256<<10)
	measure(b, func() uint64 {
		before := client.ConnectionStats().BytesReceived
		go func() {
			for range benchSize / perStream {
				s, err := server.OpenUniStreamSync(b.Context())
				if err != nil {
					return
				}
				for range perStream / len(out) {
					if _, err := s.Write(out); err != nil {
						return
					}
				}
				s.Close()
			}
		}()
		for range benchSize / perStream {
			r, err := client.AcceptUniStream(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, in); n != int64(perStream) || err != nil {
				b.Fatal(n, err)
			}
		}
		return client.ConnectionStats().BytesReceived - before
	})
}

func benchmarkKWIK(b *testing.B, secondaries int) {
	serverTLS, clientTLS := tlsConfigs(b)
	listen := func(role kwik.ServerRole) *kwik.Listener {
		l, err := kwik.ListenAddr("127.0.0.1:0", serverTLS, &kwik.ServerConfig{
			Role:        role,
			OpenContent: func(context.Context, kwik.ContentRequest) (kwik.Content, error) { return zeros{}, nil },
		})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { l.Close() })
		return l
	}
	primary := listen(kwik.ServerRolePrimary)
	for range secondaries {
		if _, err := listen(kwik.ServerRoleSecondary).Join(b.Context(), primary.Addr().String(), kwik.JoinConfig{TLS: clientTLS}); err != nil {
			b.Fatal(err)
		}
	}
	client, err := kwik.DialAddr(b.Context(), primary.Addr().String(), clientTLS, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer client.CloseWithError(0, "")
	server, err := primary.Accept(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for client.Stats().ActivePaths <= secondaries {
		time.Sleep(time.Millisecond)
	}
	measure(b, func() uint64 {
		before := client.Stats().Wire.BytesReceived
		o, err := server.OpenAggregateStream(kwik.AggregateStreamSpec{Size: benchSize, Alignment: 64 << 10})
		if err != nil {
			b.Fatal(err)
		}
		offer, err := client.AcceptAggregate(b.Context(), o.StreamID())
		if err != nil {
			b.Fatal(err)
		}
		s, err := offer.Open(nil)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := s.CopyTo(b.Context(), zeros{}, nil); n != benchSize || err != nil {
			b.Fatal(n, err)
		}
		s.Close()
		return client.Stats().Wire.BytesReceived - before
	})
}
