package cmd

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"kwikcp/internal/backoff"
	"kwikcp/kwik"
	"kwikcp/transfer"
)

// newRejoinPolicy returns the waits between attempts to join. Their random part keeps secondaries
// apart that lost a primary together.
func newRejoinPolicy() backoff.Policy {
	return backoff.Policy{Min: 500 * time.Millisecond, Max: 10 * time.Second, Random: rand.Float64}
}

// join joins the primary, waiting for it if it is unreachable, and starts to keep the membership. A
// refusal is an error here; once the server has been a member it is only logged.
func (s *runningServer) join(ctx context.Context) error {
	policy := newRejoinPolicy()
	for failures := 1; ; {
		m, err := s.joinOnce(ctx)
		if err == nil {
			s.memberTasks.Go(func() { s.keepMembership(m) })
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		if s.policy.accepted(err) {
			continue
		}
		if e, ok := errors.AsType[*transfer.Error](err); !ok || e.Kind != transfer.KindNetwork {
			return err
		}
		wait := policy.Delay(failures).Round(time.Millisecond)
		failures++
		s.log.Warn("primary unreachable, trying again", "primary", s.primary.Host, "err", err, "in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func (s *runningServer) joinOnce(ctx context.Context) (*kwik.Membership, error) {
	conf := kwik.JoinConfig{Token: s.token, Advertise: s.advertise, TLS: s.policy.config(s.primary, false)}
	if s.primary.Pin == nil && len(s.token) > 0 {
		conf.TLS = nil // the primary proves that it knows the token
	}
	m, err := s.listener.Join(ctx, s.primary.Host, conf)
	if err != nil {
		return nil, transfer.NetworkError("join the primary at "+s.primary.Host, err)
	}
	return m, nil
}

// keepMembership joins again whenever the membership ends, until the server must leave.
func (s *runningServer) keepMembership(m *kwik.Membership) {
	for m != nil {
		s.log.Info("joined", "primary", m.Primary().String(), "id", m.ID())
		select {
		case <-m.Context().Done():
			s.log.Warn("membership ended, joining again", "reason", context.Cause(m.Context()))
		case <-s.keyChanged:
			s.log.Info("the key of the certificate changed, joining again")
			m.Close()
		case <-s.member.Done():
			m.Close()
			return
		}
		m = s.rejoin()
	}
}

// rejoin joins again, as often as needed; it returns nil if the server must leave.
func (s *runningServer) rejoin() *kwik.Membership {
	policy := newRejoinPolicy()
	wait := policy.Delay(1).Round(time.Millisecond)
	for failures := 2; ; failures++ {
		select {
		case <-s.member.Done():
			return nil
		case <-time.After(wait):
		}
		m, err := s.joinOnce(s.member)
		if err == nil {
			return m
		}
		wait = policy.Delay(failures).Round(time.Millisecond)
		s.log.Warn("join failed", "err", err, "in", wait)
	}
}
