// Command profile is kwikcp's client and server inside a program that can write CPU profiles,
// and run many clients at once.
//
//	profile serve [-cpu FILE] [-primary ADDR] ROOT           a primary, or a secondary of the one at ADDR, on loopback
//	profile get   [-cpu FILE] [-clients N] [-times N] URL DIR
//
// serve prints "READY URL" and ends at SIGINT or SIGTERM; without a join token only loopback
// can join. get fetches the file N times with that many clients at once. Each client writes a
// separate file in DIR and removes it afterwards. get prints "N s, ..." like bench/native. The
// product has no flag for profiles, since only its developers need them.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"syscall"
	"time"

	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer"
	"kwikcp/transfer/disk"
	"kwikcp/transfer/serve"
	"kwikcp/transfer/source"
)

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "profile:", err)
		os.Exit(1)
	}
}

const usage = "usage: profile serve [-cpu FILE] [-primary ADDR] ROOT | profile get [-cpu FILE] [-clients N] [-times N] URL DIR"

func run(args []string) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(args) == 0 {
		return errors.New(usage)
	}
	fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
	cpu := fs.String("cpu", "", "write a CPU profile to this file")
	primary := fs.String("primary", "", "serve: join the primary at this address")
	clients := fs.Int("clients", 1, "get: how many clients at once")
	times := fs.Int("times", 1, "get: how many times each of them fetches the file, one after the other")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	if *cpu != "" {
		f, err := os.Create(*cpu)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer func() {
			pprof.StopCPUProfile()
			err = errors.Join(err, f.Close())
		}()
	}
	switch {
	case args[0] == "serve" && fs.NArg() == 1:
		return serveTree(ctx, fs.Arg(0), *primary)
	case args[0] == "get" && fs.NArg() == 2:
		return get(ctx, fs.Arg(0), fs.Arg(1), *clients, *times)
	}
	return errors.New(usage)
}

// identity returns the key of all servers that find the same temporary directory.
func identity() (tls.Certificate, error) {
	return trust.LoadOrCreateIdentity(filepath.Join(os.TempDir(), "kwikcp-bench"), time.Now())
}

// serveTree serves the files below root until ctx ends.
func serveTree(ctx context.Context, root, primary string) error {
	cert, err := identity()
	if err != nil {
		return err
	}
	dir, err := disk.OpenTree(root, false)
	if err != nil {
		return err
	}
	defer dir.Close()
	files := serve.NewServer(source.Local(dir), slog.New(slog.DiscardHandler))
	defer files.Close()
	conf := &kwik.ServerConfig{OpenContent: files.OpenContent, Verify: files.Verify}
	if primary != "" {
		conf.Role = kwik.ServerRoleSecondary
	}
	l, err := kwik.ListenAddr("127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}}, conf)
	if err != nil {
		return err
	}
	defer l.Close()
	if primary != "" {
		m, err := l.Join(ctx, primary, kwik.JoinConfig{TLS: trust.PinnedClientConfig(nil, trust.PinOf(cert.Leaf))})
		if err != nil {
			return err
		}
		defer m.Close()
	}
	pin := trust.PinOf(cert.Leaf)
	fmt.Println("READY", transfer.URL{Host: l.Addr().String(), Pin: (*[32]byte)(&pin)})
	return files.Serve(ctx, l)
}

// get has each of clients fetch a file, several times, and returns when all have ended.
func get(ctx context.Context, url, dir string, clients, times int) error {
	u, err := transfer.ParseURL(url)
	if err != nil {
		return err
	}
	if u.Pin == nil {
		return errors.New("the URL has no pin")
	}
	start := time.Now()
	errs, bytes := make([]error, clients), make([]int64, clients)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			target := filepath.Join(dir, fmt.Sprintf("client-%d", i))
			for range times {
				result, err := transfer.Get(ctx, transfer.GetOptions{URL: u, TLS: trust.PinnedClientConfig(nil, *u.Pin), Target: target}, transfer.NoReport{})
				if err == nil {
					err = os.Remove(target)
				}
				if err != nil {
					errs[i] = err
					return
				}
				bytes[i] += result.Bytes
			}
		})
	}
	wg.Wait()
	var sum int64
	for _, n := range bytes {
		sum += n
	}
	seconds := time.Since(start).Seconds()
	fmt.Printf("%.2f s, %.0f MB/s\n", seconds, float64(sum)/1e6/seconds)
	return errors.Join(errs...)
}
