package kwik_test

import (
	"context"
	"fmt"
	"io"
	"sync"

	"kwikcp/kwik"
)

// pushPart writes one server's part of the next pushed stream that the client of a session reads.
func pushPart(ctx context.Context, session *kwik.ServerSession, offset int64, part string) {
	pushed, err := session.AcceptPushedStream(ctx) // the client reads it and has told this server
	check(err)
	stream := session.OpenSecondaryStream()
	check(stream.SetKwikStreamMapping(pushed.StreamID(), offset))
	_, err = io.WriteString(stream, part)
	check(err)
	check(stream.Close())
	<-pushed.Context().Done() // the client has everything
}

// Plain pushing: a primary and a secondary each write their own part of a stream at any time. The
// client reads one ordered stream. It sends no grants, and the servers have no
// Config.OpenContent, because they know which server writes which part.
func ExampleServerSession_AcceptPushedStream() {
	ctx := context.Background()
	primaryTLS, clientTLS := exampleTLS()
	secondaryTLS, _ := exampleTLS()
	var servers sync.WaitGroup

	// The primary opens the stream and writes its beginning.
	primary, err := kwik.ListenAddr("127.0.0.1:0", primaryTLS, nil)
	check(err)
	defer primary.Close()
	servers.Go(func() {
		session, err := primary.Accept(ctx)
		check(err)
		_, err = session.OpenAggregateStream(kwik.AggregateStreamSpec{Size: 24, Pushed: true})
		check(err)
		pushPart(ctx, session, 0, "one stream, ")
	})

	// The secondary joins the primary and writes the end.
	secondary, err := kwik.ListenAddr("127.0.0.1:0", secondaryTLS, &kwik.ServerConfig{Role: kwik.ServerRoleSecondary})
	check(err)
	defer secondary.Close()
	_, err = secondary.Join(ctx, primary.Addr().String(), kwik.JoinConfig{TLS: clientTLS})
	check(err)
	servers.Go(func() {
		session, err := secondary.Accept(ctx)
		check(err)
		pushPart(ctx, session, 12, "two servers\n")
	})

	// The client opens one session, to the primary, and reads.
	session, err := kwik.DialAddr(ctx, primary.Addr().String(), clientTLS, nil)
	check(err)
	defer session.CloseWithError(0, "")
	offer, err := session.AcceptNextAggregate(ctx)
	check(err)
	reader, err := offer.Open(nil) // trusts both servers
	check(err)
	defer reader.Close()
	text, err := io.ReadAll(reader)
	check(err)
	fmt.Printf("%s", text)
	servers.Wait()
	// Output: one stream, two servers
}
