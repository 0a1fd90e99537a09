package cmd

// This file has the chapters of the manual page and of docs/REFERENCE.md that are longer than help
// should be.

// commandLineText describes all command lines.
const commandLineText = "Options may stand before and after arguments; everything after -- is an argument. Sizes are in bytes and " +
	"rates in bytes per second; K, M and G are powers of 1024. A time is a number of seconds, such as 10 or 1.5, or has units, such " +
	"as 90s, 5m or 1h30m. Options for times, rates and retries mean what those of curl mean."

// A variable is an environment variable.
type variable struct{ name, meaning string }

var environment = []variable{
	{"KWIKCP_<OPTION>", "Every option, in capitals and with _ for -: KWIKCP_MAX_TIME is --max-time. The command line takes precedence."},
	{"KWIKCP_JOIN_TOKEN", "The join token, instead of the file of --join-token-file."},
	{"KWIKCP_TOKEN", "The access token, instead of the file of --token-file, for the server of the command."},
	{"NO_COLOR", "No effect: kwikcp prints no colors."},
	{"TERM", "If it is dumb, plain lines replace the progress bar."},
	{"XDG_STATE_HOME", "The parent of the state directory, unless --state-dir is given."},
	{"SSLKEYLOGFILE", "Append the TLS keys of the connections to this file, to decrypt captured traffic."},
	{"QLOGDIR", "Write a trace of each connection (qlog) into this directory."},
	{"GOMAXPROCS", "Run on this many threads. By default a server uses one thread while one client needs no more, and otherwise all cores."},
}

// A chapter has paragraphs, and indented lines that are not wrapped.
type chapter struct{ title, text string }

var chapters = []chapter{
	{"Files", `get writes to the last component of the URL's path in the current directory, or to FILE. If FILE is a directory, which
must exist, the file gets its own name in it. "-" and /dev/stdout write verified bytes to stdout, in order. A symbolic link
to a file is replaced; one to a directory is followed.

If FILE has the size and the hash that the server names, nothing is fetched and the exit status is 0. Mode and time become
those on the server, unless --no-preserve is given. FILE is hashed only if its size is correct.

A get that fails, is interrupted or is killed leaves its verified bytes in a part file beside FILE. Its name is
.kwikcp-<20 hexadecimal digits>.part (a hash of the name of FILE without its directory), its mode 0600. The same command
hashes this part file, keeps the correct bytes and fetches the rest. So it is safe even if the file changed on the server.
Only a get to the same FILE removes a part file. Without verified bytes, and for stdout, nothing is left.

If the last chunk group proves the size of a file of at least 16 MiB, its space is reserved where possible
(fallocate on Linux). Otherwise a full disk is noticed when it is full. In both cases the exit status is 8 and the part file
stays.`},
	{"Reusing data", `With --reuse or --seed, chunk groups of an old file that are correct are copied into the part file and are not fetched.
The copy shares blocks where the file system can (Linux). Only groups at the same offset match: an insertion shifts everything
behind it.`},
	{"Ranges", `With --range only the chunk groups that contain the bytes are fetched (64 KiB in files up to 4 GiB). Each is verified
against the hash of the whole file. FILE holds just the requested bytes. An END beyond the end of the file is the end; without
any byte the exit status is 3. For stdout the range is collected in a temporary file first. --retry resumes a range, but a later
command does not, and a part file of the same FILE is removed.`},
	{"Lists", `With -i each line of LIST is a URL, optionally followed by a tab and FILE:

    # Empty lines and comments are ignored.
    kwik://files.example.org/a.iso
    kwik://files.example.org/b.iso	/srv/images/b.iso

Files from one server (address and pin) share a session. Errors are reported with the number of the line; the remaining files
are still fetched. The exit status is the highest of all lines. After an interruption the same command resumes every file.
--checksum, --range and --seed are for single files; a URL may end in #b3=HEX. Fetch a directory with a separate command, -r.
--limit-rate applies to all files together, --max-time and the retry options to each file.`},
	{"Directories", `With -r, DEST is created if it is missing; its parent is not. Without DEST it is the last component of the URL. A slash at
the end of the URL makes no difference. Each file is verified against its own hash and appears when it is complete. A
secondary that has a part of the tree serves that part.

Modes (less the umask) and times are those on the server. Owners are kept only with --owner; --special-modes, --xattrs,
--acls and --specials keep more. The last line counts what was not kept. Symbolic links are made unchanged if they lead to a
place inside the tree, with .. only at their beginning. Others are skipped, and so are devices, FIFOs and sockets. Names
of one file (hard links) stay so, unless --no-hard-links is given. Holes become zeros. A directory in the place of a file, or a link in that of a directory, is replaced only
with --delete. Of names that differ only in case, where the file system does not tell them apart, the first is fetched and
the others fail.

--delete removes entries of DEST that the server does not have and that are not excluded, after everything else. Nothing
is removed if the server could not list everything.

--dry-run changes nothing and prints a line on stdout for each entry that would change: fetch, link, make or delete, and its
name. Unprintable characters in names are escaped.

Entries that fail are named on stderr, the others are still fetched, and the exit status is the highest-ranked one. --max-time,
--limit-rate and the retry options apply to the whole command. --checksum, --range, --seed, --no-clobber and -i exclude -r.`},
	{"Patterns", `--include and --exclude take patterns. The first option whose pattern matches an entry decides; an entry that no pattern
matches is fetched. Nothing below an excluded directory is fetched.

    *        any characters except a slash
    **       any characters
    ?        one character except a slash
    [a-z]    one of a set; [!a-z] one that is not in the set
    \        the next character literally
    /a       a at the top of the tree
    a/b      the end of a path; likewise every pattern with a slash or **
    a        the last component of a path
    a/       directories only

For example, --include '*/' --include '*.jpg' --exclude '*' fetches the pictures of a tree.`},
	{"Trust", `A server is trusted if its key has the pin of the URL (?pin=). Without a pin it is trusted if its certificate is from a
known authority (--cacert, or the system's). Otherwise its key must be among the known hosts. An unknown server is accepted and recorded on loopback,
asked about on a terminal, and refused in a script.

Secondaries are trusted for verified bytes only; the primary vouches for their keys. With --checksum or #b3= no server is trusted
for the content.

The pin is a hash of the server's key, which serve makes when it first starts. On other machines a secondary needs the primary's
join token, a secret in a file on both.`},
	{"State", `The state directory (--state-dir, or kwikcp in $XDG_STATE_HOME or ~/.local/state) holds the server's key (server.key)
and the known hosts (known_hosts). That of a primary also holds the index of hash trees (trees-*.db), which may be deleted at
any time.`},
	{"Servers", `At shutdown clients continue with the other servers without losing a byte; clients that only this server can serve
have --drain-timeout to finish. So servers can be restarted one after the other under load.

The log has one line at the end of each transfer, served or refused. It names the client, the path, the bytes that this
server sent, the seconds and the outcome. The outcome is done, stopped (this server), lost and why, or the reason of the
refusal. A primary adds the number of
servers that it named to the client (sources).

A mirror (--mirror) joins at once and serves what it has so far. Its first round after a start compares every file by its hash,
later rounds, every --mirror-interval, by size and time. Entries that the primary does not have stay, unless --mirror-delete.

The primary connects to a secondary before it names it to clients. It uses the address of --advertise if that is given,
otherwise the one from which the secondary joined.`},
	{"UDP buffers", `If the system allows only small UDP buffers, serve prints the command that raises them at its start, and get after a
large transfer:

    sysctl -w net.core.rmem_max=7500000 net.core.wmem_max=7500000`},
	{"Addresses", `Without -4 and -6, the IPv4 and IPv6 addresses of a name are tried in turn, a quarter of a second apart. The first that
answers wins.`},
}
