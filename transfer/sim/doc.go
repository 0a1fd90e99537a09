// Package sim runs whole transfers in a simulated world: the real client, primary and secondaries of packages transfer and
// kwik, over a simulated network and directories in memory, inside a testing/synctest bubble, where a minute of
// retransmissions takes milliseconds and a goroutine that is left behind is a failure.
//
//	seed -> Scenario (who is where, what fails and when) -> World (network, servers, client) -> Get -> checks -> Outcome
//
// A [Scenario] follows from its seed alone. Its dials (loss, jitter, liars, deaths, ...) are each off in about half of the
// seeds, so that faults meet in many mixtures and not all at once. At least one honest server stays reachable, unless the
// scenario is doomed, and says so; so every run has one right result, and [Run] checks for it:
//
//   - the file is in place, whole, proved and on disk, or the error is of the expected kind and the target is as before;
//   - no byte that is not the file's was ever written, under any name, and no open handle is left;
//   - what is right in the part file of an earlier run is not fetched again, and a run that fails leaves a part file only if
//     something in it is right;
//   - a liar is banned, nobody else is, and what it sent in vain is at most 1 MiB;
//   - once bytes came, more come within a second and three round trips, whatever happens to the other servers;
//   - the transfer ends within a time that follows from the scenario, and so does every goroutine.
//
// How packets fare follows from the seed; what goroutines make of it also depends on Go's scheduler. A failing seed
// therefore fails again mostly, not always: run it several times (-count).
package sim
