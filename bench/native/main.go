// Command native is the yardstick. It copies a file with quic-go alone, without proof, over N
// connections that each fetch an equal static part. It uses the flow control windows of kwik.
//
//	native serve 127.0.0.1:5001 FILE
//	native get OUT 127.0.0.1:5001 [ADDR ...]     one connection to each address
//
// get prints seconds and bytes a second. Both find the servers' key in a directory below the
// system's temporary one.
package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"kwikcp/internal/trust"
)

const protocol = "kwikcp-bench"

var config = &quic.Config{
	InitialStreamReceiveWindow: 4 << 20, MaxStreamReceiveWindow: 8 << 20,
	InitialConnectionReceiveWindow: 8 << 20, MaxConnectionReceiveWindow: 12 << 20,
}

func main() {
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 3 && args[0] == "serve":
		err = serve(args[1], args[2])
	case len(args) >= 3 && args[0] == "get":
		err = get(args[1], args[2:])
	default:
		err = errors.New("usage: native serve ADDR FILE | native get OUT ADDR [ADDR ...]")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "native:", err)
		os.Exit(1)
	}
}

func identity() (tls.Certificate, error) {
	return trust.LoadOrCreateIdentity(filepath.Join(os.TempDir(), "kwikcp-bench"), time.Now())
}

// serve answers requests until it fails. A request is two big-endian integers: the part's
// number and how many parts there are. The answer is 8 bytes of file size and the part.
func serve(addr, name string) error {
	cert, err := identity()
	if err != nil {
		return err
	}
	l, err := quic.ListenAddr(addr, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{protocol}}, config)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept(context.Background())
		if err != nil {
			return err
		}
		go func() { // until the client closes the connection
			if err := answer(conn, name); err != nil {
				fmt.Fprintln(os.Stderr, "native:", err)
			}
		}()
	}
}

func answer(conn *quic.Conn, name string) error {
	stream, err := conn.AcceptStream(context.Background())
	if err != nil {
		return err
	}
	var request [16]byte
	if _, err := io.ReadFull(stream, request[:]); err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	start, end := part(info.Size(), int64(binary.BigEndian.Uint64(request[:])), int64(binary.BigEndian.Uint64(request[8:])))
	if _, err := stream.Write(binary.BigEndian.AppendUint64(nil, uint64(info.Size()))); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	for off := start; off < end; {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), end-off)], off)
		if err != nil {
			return err
		}
		if _, err := stream.Write(buf[:n]); err != nil {
			return err
		}
		off += int64(n)
	}
	return stream.Close()
}

// part returns the bounds of part i of n.
func part(size, i, n int64) (start, end int64) { return size * i / n, size * (i + 1) / n }

func get(name string, addrs []string) error {
	start := time.Now()
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	sizes := make([]int64, len(addrs))
	errs := make([]error, len(addrs))
	var wg sync.WaitGroup
	for i, addr := range addrs {
		wg.Go(func() { sizes[i], errs[i] = fetch(f, addr, int64(i), int64(len(addrs))) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	seconds := time.Since(start).Seconds()
	fmt.Printf("%.2f s, %.0f MB/s\n", seconds, float64(sizes[0])/1e6/seconds)
	return nil
}

func fetch(f *os.File, addr string, i, n int64) (size int64, err error) {
	cert, err := identity()
	if err != nil {
		return 0, err
	}
	conf := trust.PinnedClientConfig(&tls.Config{NextProtos: []string{protocol}}, trust.PinOf(cert.Leaf))
	conn, err := quic.DialAddr(context.Background(), addr, conf, config)
	if err != nil {
		return 0, err
	}
	defer conn.CloseWithError(0, "")
	stream, err := conn.OpenStreamSync(context.Background())
	if err != nil {
		return 0, err
	}
	request := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(i)), uint64(n))
	if _, err := stream.Write(request); err != nil {
		return 0, err
	}
	var head [8]byte
	if _, err := io.ReadFull(stream, head[:]); err != nil {
		return 0, err
	}
	size = int64(binary.BigEndian.Uint64(head[:]))
	start, end := part(size, i, n)
	buf := make([]byte, 256<<10)
	for off := start; off < end; {
		k, err := io.ReadFull(stream, buf[:min(int64(len(buf)), end-off)])
		if err != nil {
			return 0, err
		}
		if _, err := f.WriteAt(buf[:k], off); err != nil {
			return 0, err
		}
		off += int64(k)
	}
	return size, nil
}
