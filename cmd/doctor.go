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

	"kwikcp/internal/escape"
	"kwikcp/internal/trust"
	"kwikcp/internal/udp"
	"kwikcp/kwik"
	"kwikcp/transfer"
)

// doctorOptions are the options of doctor.
type doctorOptions struct {
	clientOptions
	json bool
}

func (o *doctorOptions) flags() []cli.Flag {
	return append(o.clientOptions.flags(),
		jsonOption(&o.json, func(e *events, err error) { e.doctorResult(nil, err) }),
		stateDirOption(&o.stateDir))
}

func doctorCommand(t *terminal) *cli.Command {
	o := &doctorOptions{clientOptions: newClientOptions()}
	return &cli.Command{
		Name:      "doctor",
		Usage:     "diagnose this host, the servers and the connections between them",
		UsageText: "kwikcp doctor kwik://HOST[:PORT]/[?pin=PIN]",
		Description: `Connects to the primary and to every secondary that it names, as get does, and fetches nothing. For each server it
prints the address, round-trip time, packet loss, key, certificate, versions and clock. For this host and each server it
prints the UDP buffers, the offloads (GRO, GSO) and ECN.

The exit status is 5 if a server does not answer.

` + exitHelp(append([]int{exitRefused, exitNetwork, exitLocal}, signalCodes...)...),
		Flags:  o.flags(),
		Action: func(c *cli.Context) error { return runDoctor(c.Context, t, o, c.Args().Slice()) },
	}
}

// A diagnosis is the state of a server.
type diagnosis struct {
	kwik.ServerStats
	*kwik.Connection // nil unless the server answered
}

// answered reports whether there is a connection to the server.
func (d diagnosis) answered() bool { return d.Connection != nil }

// certificate returns the server's certificate; nil if it did not answer.
func (d diagnosis) certificate() *x509.Certificate {
	if !d.answered() || len(d.TLS.PeerCertificates) == 0 {
		return nil
	}
	return d.TLS.PeerCertificates[0]
}

// A patient is the primary to examine.
type patient struct {
	client
	url transfer.URL
}

func parseDoctor(t *terminal, o *doctorOptions, args []string) (p patient, err error) {
	if len(args) != 1 {
		return p, usagef(adviseDoctor, "doctor takes the URL of one server, not %d arguments", len(args))
	}
	if p.url, err = parsePrimary(args[0]); err != nil {
		return p, usagef(adviseDoctor, "%q is not the URL of a server: %w", withoutSecret(args[0]), err)
	}
	p.client, err = o.clientOptions.parse(t)
	return p, err
}

func runDoctor(ctx context.Context, t *terminal, o *doctorOptions, args []string) error {
	p, err := parseDoctor(t, o, args)
	if err != nil && !o.json {
		return err
	}
	var machine udp.Machine
	var servers []diagnosis
	if err == nil {
		if machine, err = udp.Inspect(); err != nil {
			err = transfer.LocalError("open a UDP socket", err)
		}
	}
	if err == nil {
		servers, err = p.examine(ctx)
	}
	if o.json {
		events := newEvents(t.stdout)
		events.start(withoutSecret(argument(args, 0)), "")
		if machine != (udp.Machine{}) {
			events.machine(machine)
		}
		for _, d := range servers {
			events.diagnosis(d)
		}
		events.doctorResult(servers, err)
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

// examine connects, a second time if the user at the terminal accepts the server's key. It returns
// an error with the diagnoses if a server did not answer.
func (p patient) examine(ctx context.Context) ([]diagnosis, error) {
	servers, err := p.connect(ctx)
	if err != nil && p.policy.accepted(err) {
		servers, err = p.connect(ctx)
	}
	for _, d := range servers {
		if !d.answered() && err == nil {
			unreachable := errors.New("the server does not answer, others do")
			err = advisedError{adviseUnreachable, transfer.NetworkError("connect to "+d.Addr.String(), unreachable)}
		}
	}
	return servers, err
}

// settleTime is how long a primary may take to name its secondaries after it answered; it does so
// at once.
const settleTime = 300 * time.Millisecond

// connect returns the servers when each has answered or failed.
func (p patient) connect(ctx context.Context) ([]diagnosis, error) {
	config, err := p.config(p.url)
	if err != nil {
		return nil, err
	}
	config.Inspect = true
	dialing, cancel := context.WithTimeout(ctx, p.connectTimeout)
	defer cancel()
	session, err := kwik.DialAddr(dialing, p.url.Host, p.tls(p.url, config), config)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, transfer.NetworkError("connect to "+p.url.Host+" over UDP", err)
	}
	defer session.CloseWithError(0, "")
	if err := settle(ctx, dialing, session); err != nil {
		return nil, err
	}
	var found []diagnosis
	for _, path := range session.Servers() {
		d := diagnosis{ServerStats: path}
		if c, ok := session.Connection(path.ID); ok {
			d.Connection = &c
		}
		found = append(found, d)
	}
	return found, nil
}

// settle waits until no path is connecting any more, or until dialing ends. A session does not
// announce changes, so it polls.
func settle(ctx, dialing context.Context, session *kwik.ClientSession) error {
	settled := time.NewTimer(settleTime)
	defer settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-dialing.Done():
			return nil
		case <-settled.C:
			settled.Reset(50 * time.Millisecond)
		}
		connecting := false
		for _, path := range session.Servers() {
			connecting = connecting || path.State == kwik.PathConnecting
		}
		if !connecting {
			return nil
		}
	}
}

func describeMachine(m udp.Machine) string {
	var b strings.Builder
	fmt.Fprintf(&b, "this host\n")
	describeSockets(&b, m)
	return b.String()
}

// describeSockets describes the UDP sockets of this host or of a server.
func describeSockets(b *strings.Builder, m udp.Machine) {
	buffer := func(n int) string {
		if n == 0 {
			return "unknown"
		}
		return size(int64(n))
	}
	line(b, "UDP buffers", "receive %s, send %s", buffer(m.ReceiveBuffer), buffer(m.SendBuffer))
	if advice := m.Advice(); advice != "" {
		line(b, "", "too small: %s", advice)
	}
	if !m.Known {
		line(b, "offloads, ECN", "unknown on this system")
		return
	}
	line(b, "offloads", "receive (GRO) %s, send (GSO) %s, ECN %s", yesNo(m.GRO), yesNo(m.GSO), yesNo(m.ECN))
}

// describe describes a server at a time.
func (d diagnosis) describe(now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", d.Role, d.Addr)
	if !d.answered() {
		line(&b, "unreachable", "%s", escape.Line(d.whyUnreachable()))
		return b.String()
	}
	line(&b, "from", "%s", origin(d.Local))
	line(&b, "round trip", "%.1f ms, minimum %.1f ms", milliseconds(d.RTT), milliseconds(d.MinRTT))
	line(&b, "loss", "%d of %d packets sent by this host; unknown for the server's", d.Wire.PacketsLost, d.Wire.PacketsSent)
	if cert := d.certificate(); cert != nil {
		line(&b, "key", "pin %s", trust.PinOf(cert))
		line(&b, "certificate", "%s", validity(cert, now))
	}
	line(&b, "protocols", "%s over QUIC %s", d.TLS.NegotiatedProtocol, d.Version)
	line(&b, "this way", "send (GSO) %s, ECN %s", yesNo(d.GSO), d.ECN)
	if d.Host == nil {
		line(&b, "server", "reports nothing: it is an older version, or busy")
		return b.String()
	}
	software := "unknown"
	if d.Host.Software != "" {
		software = escape.Line(d.Host.Software)
	}
	line(&b, "software", "%s", software)
	line(&b, "access", "%s", describeAccess(d.Host.Access))
	line(&b, "clock", "%s", clock(d.Host))
	describeSockets(&b, udp.Machine{
		ReceiveBuffer: d.Host.ReceiveBuffer, SendBuffer: d.Host.SendBuffer,
		Known: d.Host.OffloadsKnown, GRO: d.Host.GRO, GSO: d.Host.GSO, ECN: d.Host.ECN,
	})
	return b.String()
}

// whyUnreachable returns why there is no connection to the server.
func (d diagnosis) whyUnreachable() string {
	if d.Err == nil {
		return "no answer in time"
	}
	return transfer.NetworkCause(d.Err).Error()
}

// reason returns why there is no connection to the server, as events print it. A refusal of this
// client stands alone, every other cause after the step that failed.
func (d diagnosis) reason() string {
	if e, ok := errors.AsType[refusal](d.Err); ok {
		return e.Error()
	}
	return "connect: " + d.whyUnreachable()
}

// describeAccess describes what a server demands of clients, as it states itself.
func describeAccess(access string) string {
	switch access {
	case "":
		return "unknown: it is an older version"
	case "open":
		return "open: every client may read everything"
	case "token":
		return "a token is required"
	case "certificate":
		return "a client certificate is required"
	case "token+certificate":
		return "a token and a client certificate are required"
	case "ticket":
		return "with tickets of the primary only"
	}
	return escape.Line(access)
}

// clock describes how a server's clock differs from this host's.
func clock(h *kwik.Host) string {
	by := h.Clock.Abs().Round(time.Millisecond)
	if by >= time.Minute {
		by = by.Round(time.Second)
	}
	switch {
	case h.Clock.Abs() <= h.ClockError:
		return fmt.Sprintf("as here, within %v", h.ClockError.Round(time.Millisecond))
	case h.Clock > 0:
		return fmt.Sprintf("%v ahead", by)
	default:
		return fmt.Sprintf("%v behind", by)
	}
}

// origin returns the local address, or the port if the socket is bound to all addresses.
func origin(local net.Addr) string {
	if udp, ok := local.(*net.UDPAddr); ok && udp.IP.IsUnspecified() {
		return fmt.Sprintf("port %d of this host", udp.Port)
	}
	return local.String()
}

// validity describes whether a certificate is valid at a time.
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

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// machine prints the UDP sockets of this host.
func (e *events) machine(m udp.Machine) {
	e.print(struct {
		event
		*sockets
		Advice string `json:"advice"`
	}{newEvent("machine"), newSockets(m.ReceiveBuffer, m.SendBuffer, m.Known, m.GRO, m.GSO, m.ECN), m.Advice()})
}

// sockets describes the UDP sockets of a host in events; null means unknown.
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

// diagnosis prints the state of a server; null means unknown.
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
		Access      *string       `json:"access"`
		Sockets     *sockets      `json:"sockets"`
	}{
		event: newEvent("diagnosis"), ID: d.ID, Role: d.Role.String(), Addr: d.Addr.String(), Answered: d.answered(),
		PacketsSent: d.Wire.PacketsSent, PacketsLost: d.Wire.PacketsLost,
	}
	if d.Err != nil {
		found.Reason = d.reason()
	}
	if d.answered() {
		local, rtt, minRTT := d.Local.String(), milliseconds(d.RTT), milliseconds(d.MinRTT)
		quicVersion, ecn := d.Version.String(), string(d.ECN)
		found.Local, found.RTT, found.MinRTT = &local, &rtt, &minRTT
		found.KWIK, found.QUIC, found.GSO, found.ECN = &d.TLS.NegotiatedProtocol, &quicVersion, &d.GSO, &ecn
		if h := d.Host; h != nil {
			clock, clockError := h.Clock.Seconds(), h.ClockError.Seconds()
			found.Clock, found.ClockError, found.Version = &clock, &clockError, &h.Software
			if h.Access != "" {
				found.Access = &h.Access
			}
			found.Sockets = newSockets(h.ReceiveBuffer, h.SendBuffer, h.OffloadsKnown, h.GRO, h.GSO, h.ECN)
		}
	}
	if cert := d.certificate(); cert != nil {
		pin, until := trust.PinOf(cert).String(), cert.NotAfter.UTC()
		found.Pin, found.NotAfter = &pin, &until
	}
	e.print(found)
}

// doctorResult prints the last event of a doctor, exactly once.
func (e *events) doctorResult(servers []diagnosis, err error) {
	answered := 0
	for _, d := range servers {
		if d.answered() {
			answered++
		}
	}
	e.print(struct {
		outcome
		Known    int `json:"servers_known"`
		Answered int `json:"servers_answered"`
	}{newOutcome("result", err), len(servers), answered})
}
