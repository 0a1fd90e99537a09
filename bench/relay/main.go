// Command relay is a long, thin, lossy line for UDP on one machine. With -tcp it is a long line for
// TCP connections. It listens at one address
// for each target and passes datagrams on, both ways. They pass a queue at a rate and with a
// delay, and some are lost by dice. It needs no privileges.
//
//	relay [flags] LISTEN=TARGET [LISTEN=TARGET ...]
//
// Rate, delay, jitter, queue and loss hold for each direction of each pair. Each may be a
// list, one value for each pair ("-rate 200,100,50"); the last one counts for the remaining
// pairs. The same seed loses the same datagrams: the n-th of a direction, whatever its
// content.
//
// When it is ready it prints a line for each pair ("127.0.0.1:5000=127.0.0.1:4433"; a port 0
// is replaced by the real one). When SIGINT or SIGTERM ends it, it prints a table of each
// direction's counts.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	pairs, err := parse(args)
	if err != nil {
		return err
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	failed := make(chan error, 1)
	begin := time.Now()
	if len(pairs) > 0 && pairs[0].isTCP {
		return relayStreams(pairs, interrupted)
	}
	var running []*pair
	defer func() {
		for _, p := range running {
			p.close()
		}
		report(os.Stdout, running)
	}()
	for _, o := range pairs {
		front, err := openSocket(o.listen)
		if err != nil {
			return err
		}
		p := &pair{
			front: front, target: o.target, up: newLine(newLink(o.up, o.seed, 0)), down: newLine(newLink(o.down, o.seed, 1)),
			maxSessions: o.sessions, idle: o.idle,
			now: func() time.Duration { return time.Since(begin) },
			failed: func(err error) {
				select {
				case failed <- err:
				default: // the first one is enough
				}
			},
		}
		p.start()
		running = append(running, p)
		fmt.Printf("%v=%v\n", front.addr(), o.target)
	}
	select {
	case <-interrupted:
		return nil
	case err := <-failed:
		return err
	}
}

// relayStreams relays TCP connections until it is interrupted.
func relayStreams(pairs []pairConfig, interrupted <-chan os.Signal) error {
	for _, o := range pairs {
		p := &streamPair{at: o.listen, target: o.target, delay: o.down.delay, rate: o.down.rate, sessions: o.sessions}
		if err := p.start(); err != nil {
			return err
		}
		defer p.close()
		fmt.Printf("%v=%v\n", p.listener.Addr(), o.target)
	}
	<-interrupted
	return nil
}

// A pairConfig is the configuration of one pair.
type pairConfig struct {
	listen, target netip.AddrPort
	up, down       linkConfig
	seed           uint64
	sessions       int
	idle           time.Duration
	isTCP          bool
}

func parse(args []string) ([]pairConfig, error) {
	fs := flag.NewFlagSet("relay", flag.ContinueOnError)
	fs.Usage = func() {
		fmt.Fprintln(fs.Output(), "usage: relay [flags] LISTEN=TARGET [LISTEN=TARGET ...]    addresses are IP:PORT")
		fs.PrintDefaults()
	}
	rate, delay, jitter, loss, queue := numbers{0}, numbers{0}, numbers{0}, numbers{0}, numbers{100}
	fs.Var(&rate, "rate", "`Mbit/s` of each direction, headers included; 0 is unlimited")
	fs.Var(&delay, "delay", "`ms` one way, half of the round trip")
	fs.Var(&jitter, "jitter", "`ms` that the delay grows by at most; it wanders, nothing overtakes")
	fs.Var(&loss, "loss", "`probability` that a datagram is lost, 0 to 1")
	fs.Var(&queue, "queue", "`ms` that a datagram may wait for its turn at the rate; it is dropped if it had to wait longer")
	down := fs.Bool("loss-down-only", false, "lose nothing on the way to the target")
	overhead := fs.Int("overhead", 28, "`bytes` that each datagram takes of the rate besides its payload: 28 for IPv4 and UDP, 42 with Ethernet")
	seed := fs.Uint64("seed", 1, "`number` that losses and jitter follow from")
	sessions := fs.Int("sessions", 64, "`clients` of each pair at a time; others are ignored. Each takes up to 0.5 MiB")
	tcp := fs.Bool("tcp", false, "relay TCP connections, each with -rate and -delay to itself; "+
		"the other flags have no effect")
	idle := fs.Duration("idle", time.Minute, "`time` after which a client is forgotten if nothing goes either way")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() == 0 {
		fs.Usage()
		return nil, errors.New("no pair")
	}
	if *overhead < 0 || *sessions < 1 || *idle <= 0 {
		return nil, errors.New("-overhead must not be negative, -sessions and -idle must be positive")
	}
	var pairs []pairConfig
	for i, arg := range fs.Args() {
		listen, target, ok := strings.Cut(arg, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not LISTEN=TARGET", arg)
		}
		// Each pair has a separate generator, so that traffic of one does not change the
		// losses of another.
		p := pairConfig{seed: *seed + uint64(i)<<32, sessions: *sessions, idle: *idle, isTCP: *tcp}
		var err error
		if p.listen, err = addrPort(listen); err != nil {
			return nil, err
		}
		if p.target, err = addrPort(target); err != nil {
			return nil, err
		}
		if loss.at(i) > 1 {
			return nil, fmt.Errorf("-loss %v is no probability", loss.at(i))
		}
		p.down = linkConfig{
			rate: rate.at(i) * 1e6, overhead: *overhead, loss: loss.at(i),
			queue: millis(queue.at(i)), delay: millis(delay.at(i)), jitter: millis(jitter.at(i)),
		}
		p.up = p.down
		if *down {
			p.up.loss = 0
		}
		pairs = append(pairs, p)
	}
	return pairs, nil
}

func addrPort(s string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(s)
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), err
}

func millis(n float64) time.Duration { return time.Duration(n * float64(time.Millisecond)) }

// numbers is a flag: numbers with commas between them, none negative.
type numbers []float64

func (n *numbers) String() string {
	var words []string
	for _, x := range *n {
		words = append(words, strconv.FormatFloat(x, 'f', -1, 64))
	}
	return strings.Join(words, ",")
}

func (n *numbers) Set(list string) error {
	*n = nil
	for word := range strings.SplitSeq(list, ",") {
		x, err := strconv.ParseFloat(word, 64)
		if err != nil || !(x >= 0 && x <= 1e9) { // written so as to refuse NaN too
			return fmt.Errorf("%q is no number from 0 to 1e9", word)
		}
		*n = append(*n, x)
	}
	return nil
}

// at returns the number for pair i.
func (n numbers) at(i int) float64 { return n[min(i, len(n)-1)] }

// report prints the counts of each direction of the pairs. The last three columns show whether
// the relay kept up.
func report(w io.Writer, pairs []*pair) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "LISTEN\tTO\tPACKETS\tBYTES\tLOST BY DICE\tDROPPED BY QUEUE\tTOO LONG\tREFUSED\tUNSENT\tUNREAD\tMEAN LATE\tMOST LATE\t")
	for _, p := range pairs {
		for _, d := range []struct {
			to string
			l  *line
		}{{"target", p.up}, {"client", p.down}} {
			var c counts
			d.l.count(func(now *counts) { c = *now })
			fmt.Fprintf(t, "%v\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.2f ms\t%.1f ms\t\n", p.front.addr(), d.to, c.packets, c.bytes,
				c.lost, c.overflowed, c.tooLong, c.refused, c.unsent, c.unread, c.lateness.Seconds()*1e3/float64(max(c.sent, 1)), c.latest.Seconds()*1e3)
		}
	}
	t.Flush()
}
