// Package attack contains tests that attack the real program from outside. A test starts a
// server's process and hostile clients, and measures the server's memory and processor time
// and the service that an honest client gets.
//
// The tests run in a short form by default. The environment variable KWIKCP_ATTACK=long
// selects the numbers of the security guide (docs/SECURITY.md). Attacks that need no process
// are tested beside the code that they attack, in tests named TestAttack.
package attack
