// Package sim runs whole transfers in a simulated world. It uses the real client, primary and
// secondaries of packages transfer and kwik. The network and the directories are simulated in
// memory. All run inside a testing/synctest bubble. There a minute of retransmissions takes
// milliseconds, and a leaked goroutine is a failure.
//
//	seed -> Scenario (who is where, what fails and when) -> World (network, servers, client) -> Get -> checks -> Outcome
//
// A [Scenario] follows from its seed alone. Each of its dials (loss, jitter, liars, deaths,
// ...) is off in about half of the seeds, so that faults mix in many ways. Unless the scenario
// is doomed, at least one honest server stays reachable. Every run therefore has one right
// result. [Run] checks these promises:
//
//   - The file is in place, whole, verified and durable. Otherwise the error is of the
//     expected kind and the target is unchanged.
//   - No wrong byte was ever written, under any name, and no handle stays open.
//   - The client does not fetch right bytes of an earlier part file again. A failed run leaves
//     a part file only if some of it is right.
//   - Each liar is banned, and no other server is. A liar costs at most 1 MiB.
//   - Once bytes arrive, the next ones follow within a second and three round trips, even if
//     other servers fail.
//   - The transfer and every goroutine end within a time that follows from the scenario.
//
// The fate of each packet follows from the seed. The order of goroutines also depends on Go's
// scheduler. A failing seed therefore fails again mostly, but not always. Run it several times
// (-count).
package sim
