package cmd

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"kwikcp/internal/trust"
	"kwikcp/internal/udp"
	"kwikcp/kwik"
	"kwikcp/transfer"
)

func doctorCommand(t *terminal) *cli.Command {
	return &cli.Command{
		Name:      "doctor",
		Usage:     "say how this machine, a primary and its secondaries are doing, and the ways to them",
		UsageText: "kwikcp doctor kwik://HOST[:PORT]/[?pin=PIN]",
		Description: `Connects to the primary and to every secondary that it names, as a get does, fetches nothing, and prints on stdout what can be found
out about each: address, round-trip time, loss, key and its expiry, versions, clock; and about the UDP sockets of this machine and of
theirs: buffers, offloads (GRO, GSO) and ECN. What cannot be found out is said to be unknown.

` + exitHelp(exitRefused, exitNetwork, exitLocal),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "cacert", EnvVars: []string{"KWIKCP_CACERT"}, Usage: "trust the certificate authorities in `FILE` (PEM) instead of the system's"},
			ipv4Flag(), ipv6Flag(),
			secondsFlag("connect-timeout", transfer.DefaultConnectTimeout, "give a server up if it has not answered after `TIME`"),
			&cli.BoolFlag{Name: "json", EnvVars: []string{"KWIKCP_JSON"}, Usage: "print events on stdout, one JSON object a line"},
			stateDirFlag,
		},
		Action: func(c *cli.Context) error { return runDoctor(c, t) },
	}
}

// A doctorCmd is a parsed doctor command.
type doctorCmd struct {
	url            transfer.URL
	family         kwik.AddressFamily
	connectTimeout time.Duration
	policy         *trustPolicy
}

// A diagnosis is what was found out about a server.
type diagnosis struct {
	kwik.ServerStats
	*kwik.Connection // nil unless it answered
}

// answered reports whether there is a connection to the server.
func (d diagnosis) answered() bool { return d.Connection != nil }

// certificate is what the server showed; nil if it did not answer.
func (d diagnosis) certificate() *x509.Certificate {
	if !d.answered() || len(d.TLS.PeerCertificates) == 0 {
		return nil
	}
	return d.TLS.PeerCertificates[0]
}

func parseDoctor(c *cli.Context, t *terminal) (doctorCmd, error) {
	const help = "kwikcp doctor kwik://HOST:PORT/"
	o := doctorCmd{connectTimeout: seconds(c, "connect-timeout")}
	switch {
	case c.Args().Len() != 1:
		return o, usageError{fmt.Errorf("doctor takes the URL of one server, not %d arguments", c.Args().Len()), help}
	case o.connectTimeout <= 0:
		return o, usageError{errors.New("--connect-timeout must be more than 0"), "such as 10"}
	}
	var err error
	if o.url, err = parsePrimary(c.Args().First()); err != nil {
		return o, usageError{fmt.Errorf("%q is not the URL of a server: %w", withoutSecret(c.Args().First()), err), help}
	}
	if o.family, err = family(c); err != nil {
		return o, err
	}
	state, err := stateDir(c)
	if err != nil {
		return o, err
	}
	o.policy, err = newTrustPolicy(t, state, c.String("cacert"))
	return o, err
}

func runDoctor(c *cli.Context, t *terminal) error {
	o, err := parseDoctor(c, t)
	var machine udp.Machine
	var servers []diagnosis
	if err == nil {
		if machine, err = udp.Inspect(); err != nil {
			err = transfer.LocalError("open a UDP socket", err)
		}
	}
	if err == nil {
		servers, err = o.examine(c.Context)
		if err != nil && o.policy.accepted(err) {
			servers, err = o.examine(c.Context)
		}
	}
	for _, d := range servers {
		if !d.answered() && err == nil {
			err = hintedError{transfer.NetworkError("reach "+d.Addr.String(), errors.New("that server does not answer, others do")), "the address that a secondary is known by can be set with its --advertise"}
		}
	}
	if c.Bool("json") {
		events := newEvents(t.stdout)
		events.start(withoutSecret(c.Args().First()), "")
		if machine != (udp.Machine{}) {
			events.machine(machine)
		}
		for _, d := range servers {
			events.diagnosis(d)
		}
		events.diagnosed(servers, err)
		return err
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return err
	}
	text := describeMachine(machine)
	for _, d := range servers {
		text += "\n" + d.describe(time.Now())
	}
	if _, err := io.WriteString(t.stdout, text); err != nil {
		return transfer.LocalError("print the findings", err)
	}
	return err
}

// settleTime is how long a primary has to name its secondaries after it has answered; it does so at once.
const settleTime = 300 * time.Millisecond

// examine connects and returns what is known when every server has answered or failed to.
func (o doctorCmd) examine(ctx context.Context) ([]diagnosis, error) {
	traced, err := quicConfig()
	if err != nil {
		return nil, err
	}
	dialling, cancel := context.WithTimeout(ctx, o.connectTimeout)
	defer cancel()
	conf := &kwik.ClientConfig{Config: kwik.Config{QUIC: traced, Family: o.family}, Inspect: true}
	session, err := kwik.DialAddr(dialling, o.url.Host, o.policy.config(o.url), conf)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, transfer.NetworkError("connect to "+o.url.Host+" over UDP", err)
	}
	defer session.CloseWithError(0, "")
	settled := time.NewTimer(settleTime)
	defer settled.Stop()
	for waiting := true; waiting; { // a session does not tell of changes, so they are looked for
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-dialling.Done():
			waiting = false
		case <-settled.C:
			settled.Reset(50 * time.Millisecond)
			waiting = false
			for _, p := range session.Servers() {
				waiting = waiting || p.State == kwik.PathConnecting
			}
		}
	}
	var found []diagnosis
	for _, p := range session.Servers() {
		d := diagnosis{ServerStats: p}
		if c, ok := session.Connection(p.ID); ok {
			d.Connection = &c
		}
		found = append(found, d)
	}
	return found, nil
}

func describeMachine(m udp.Machine) string {
	var b strings.Builder
	fmt.Fprintf(&b, "this machine\n")
	describeSockets(&b, m)
	return b.String()
}

// describeSockets says what the sockets of this machine or a server's can do.
func describeSockets(b *strings.Builder, m udp.Machine) {
	buffer := func(n int) string {
		if n == 0 {
			return "unknown"
		}
		return size(int64(n))
	}
	line(b, "UDP buffers", "%s to receive, %s to send", buffer(m.ReceiveBuffer), buffer(m.SendBuffer))
	if advice := m.Advice(); advice != "" {
		line(b, "", "too small: %s", advice)
	}
	if !m.Known {
		line(b, "offloads, ECN", "unknown on that system")
		return
	}
	line(b, "offloads", "receiving (GRO) %s, sending (GSO) %s, ECN %s", yes(m.GRO), yes(m.GSO), yes(m.ECN))
}

// describe says what was found out about a server, at a time.
func (d diagnosis) describe(now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", d.Role, d.Addr)
	if !d.answered() {
		why := "no answer in time"
		if d.Err != nil {
			why = transfer.NetworkCause(d.Err).Error()
		}
		line(&b, "not reached", "%s", oneLine(why))
		return b.String()
	}
	line(&b, "from", "%s", origin(d.Local))
	line(&b, "round trip", "%.1f ms, the shortest %.1f ms", milliseconds(d.RTT), milliseconds(d.MinRTT))
	line(&b, "loss", "%d of %d packets sent by this side; of the server's, unknown", d.Wire.PacketsLost, d.Wire.PacketsSent)
	if cert := d.certificate(); cert != nil {
		line(&b, "key", "pin %s", trust.PinOf(cert))
		line(&b, "certificate", "%s", validity(cert, now))
	}
	line(&b, "protocols", "%s over QUIC %s", d.TLS.NegotiatedProtocol, d.Version)
	line(&b, "to it", "sending (GSO) %s, ECN %s", yes(d.GSO), d.ECN)
	if d.Host == nil {
		line(&b, "itself", "says nothing: a version before this one, or it is busy")
		return b.String()
	}
	software := "unknown"
	if d.Host.Software != "" {
		software = oneLine(d.Host.Software)
	}
	line(&b, "software", "%s", software)
	line(&b, "its clock", "%s", clock(d.Host))
	describeSockets(&b, udp.Machine{
		ReceiveBuffer: d.Host.ReceiveBuffer, SendBuffer: d.Host.SendBuffer,
		Known: d.Host.OffloadsKnown, GRO: d.Host.GRO, GSO: d.Host.GSO, ECN: d.Host.ECN,
	})
	return b.String()
}

// clock says how a server's clock differs from this one.
func clock(h *kwik.Host) string {
	by := h.Clock.Abs().Round(time.Millisecond)
	if by >= time.Minute {
		by = by.Round(time.Second)
	}
	switch {
	case h.Clock.Abs() <= h.ClockError:
		return fmt.Sprintf("as here, by %v at most", h.ClockError.Round(time.Millisecond))
	case h.Clock > 0:
		return fmt.Sprintf("%v ahead", by)
	default:
		return fmt.Sprintf("%v behind", by)
	}
}

// origin is this side's address, or its port where the socket has any address.
func origin(local net.Addr) string {
	if udp, ok := local.(*net.UDPAddr); ok && udp.IP.IsUnspecified() {
		return fmt.Sprintf("port %d of this machine", udp.Port)
	}
	return local.String()
}

// validity says until when a certificate is valid, and warns of what a clock that is wrong makes of it.
func validity(cert *x509.Certificate, now time.Time) string {
	switch until := cert.NotAfter.UTC().Format(time.DateOnly); {
	case now.Before(cert.NotBefore):
		return fmt.Sprintf("not valid before %s: the clock here or there is wrong", cert.NotBefore.UTC().Format(time.DateTime))
	case now.After(cert.NotAfter):
		return "expired on " + until
	default:
		return fmt.Sprintf("valid until %s, %d days", until, int(cert.NotAfter.Sub(now).Hours()/24))
	}
}

func line(b *strings.Builder, name, format string, args ...any) {
	fmt.Fprintf(b, "  %-14s %s\n", name, fmt.Sprintf(format, args...))
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// machine prints what the sockets of this machine can do; null is what is unknown.
func (e *events) machine(m udp.Machine) {
	e.enc.Encode(struct {
		event
		*sockets
		Advice string `json:"advice"`
	}{event{1, "machine"}, newSockets(m.ReceiveBuffer, m.SendBuffer, m.Known, m.GRO, m.GSO, m.ECN), m.Advice()})
}

// sockets is what UDP sockets of a machine can do, in events; null is what is unknown.
type sockets struct {
	Receive int   `json:"receive_buffer"`
	Send    int   `json:"send_buffer"`
	GRO     *bool `json:"gro"`
	GSO     *bool `json:"gso"`
	ECN     *bool `json:"ecn"`
}

func newSockets(receive, send int, known, gro, gso, ecn bool) *sockets {
	s := &sockets{Receive: receive, Send: send}
	if known {
		s.GRO, s.GSO, s.ECN = &gro, &gso, &ecn
	}
	return s
}

// diagnosis prints what was found out about a server; null is what is unknown.
func (e *events) diagnosis(d diagnosis) {
	found := struct {
		event
		ID          kwik.ServerID `json:"id"`
		Role        string        `json:"role"`
		Addr        string        `json:"addr"`
		Answered    bool          `json:"answered"`
		Reason      string        `json:"reason"`
		Local       *string       `json:"local_addr"`
		RTT         *float64      `json:"rtt_ms"`
		MinRTT      *float64      `json:"min_rtt_ms"`
		PacketsSent uint64        `json:"packets_sent"`
		PacketsLost uint64        `json:"packets_lost"`
		Pin         *string       `json:"pin"`
		NotAfter    *time.Time    `json:"not_after"`
		KWIK        *string       `json:"kwik"`
		QUIC        *string       `json:"quic"`
		GSO         *bool         `json:"gso"`
		ECN         *string       `json:"ecn"`
		Clock       *float64      `json:"clock_difference_s"`
		ClockError  *float64      `json:"clock_error_s"`
		Version     *string       `json:"version"`
		Sockets     *sockets      `json:"sockets"`
	}{
		event: event{1, "diagnosis"}, ID: d.ID, Role: d.Role.String(), Addr: d.Addr.String(), Answered: d.answered(),
		PacketsSent: d.Wire.PacketsSent, PacketsLost: d.Wire.PacketsLost,
	}
	if d.Err != nil {
		_, found.Reason, _ = explain(transfer.NetworkError("connect", d.Err))
	}
	if d.answered() {
		local, rtt, minRTT, quicVersion, ecn := d.Local.String(), milliseconds(d.RTT), milliseconds(d.MinRTT), d.Version.String(), string(d.ECN)
		found.Local, found.RTT, found.MinRTT, found.KWIK, found.QUIC, found.GSO, found.ECN = &local, &rtt, &minRTT, &d.TLS.NegotiatedProtocol, &quicVersion, &d.GSO, &ecn
		if h := d.Host; h != nil {
			clock, clockError := h.Clock.Seconds(), h.ClockError.Seconds()
			found.Clock, found.ClockError, found.Version = &clock, &clockError, &h.Software
			found.Sockets = newSockets(h.ReceiveBuffer, h.SendBuffer, h.OffloadsKnown, h.GRO, h.GSO, h.ECN)
		}
	}
	if cert := d.certificate(); cert != nil {
		pin, until := trust.PinOf(cert).String(), cert.NotAfter.UTC()
		found.Pin, found.NotAfter = &pin, &until
	}
	e.enc.Encode(found)
}

// diagnosed prints the last event of a doctor, exactly once.
func (e *events) diagnosed(servers []diagnosis, err error) {
	code, message, _ := explain(err)
	answered := 0
	for _, d := range servers {
		if d.answered() {
			answered++
		}
	}
	e.enc.Encode(struct {
		event
		OK        bool   `json:"ok"`
		ExitCode  int    `json:"exit_code"`
		ErrorCode string `json:"error_code"`
		Message   string `json:"message"`
		Known     int    `json:"servers_known"`
		Answered  int    `json:"servers_answered"`
	}{event{1, "result"}, err == nil, code, errorCode(err), message, len(servers), answered})
}
