package cmd

// This file has the chapters of the manual page and of docs/REFERENCE.md that are longer than help
// should be.

// commandLineText describes all command lines.
const commandLineText = "Options may stand before and after arguments; everything after -- is an argument. Sizes are in bytes and " +
	"rates in bytes per second; K, M and G are powers of 1024. A time is a number of seconds, such as 10 or 1.5, or " +
	"has units, such as 90s, 5m, 1h30m or 30d. All numbers are decimal and have no sign; a fraction that rounds to " +
	"0 is an error. Options for times, rates and retries mean what those of curl mean."

// A variable is an environment variable.
type variable struct{ name, meaning string }

var environment = []variable{
	{"KWIKCP_<OPTION>", "Every option, in capitals and with _ for -: KWIKCP_MAX_TIME is --max-time. The command line takes precedence, also over variables of options that it excludes. An empty variable counts as none."},
	{"KWIKCP_JOIN_TOKEN", "The join token, instead of the file of --join-token-file."},
	{"KWIKCP_TOKEN", "The access token, instead of the file of --token-file, for the server of the command."},
	{"NO_COLOR", "No effect: kwikcp prints no colors."},
	{"TERM", "If it is dumb, plain lines replace the progress bar."},
	{"STATE_DIRECTORY", "The state directory, unless --state-dir is given; systemd sets it for StateDirectory=."},
	{"XDG_STATE_HOME", "The parent of the state directory, unless --state-dir or STATE_DIRECTORY is given."},
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
    kwik://files.example.org/c.iso	c.iso	https://cdn.example.org/c.iso

The third and all further columns are URLs of web mirrors of that file, in the order of preference and at most 8. They
are used besides those of --web-mirror. An empty FILE before them is the last component of the URL.

Files from one server (address and pin) share a session. Errors are reported with the number of the line; the remaining files
are still fetched. The exit status is the highest of all lines. After an interruption the same command resumes every file.
--checksum, --range and --seed are for single files; a URL may end in #b3=HEX. With --checksum-file, the files that it names
must have its hashes. Fetch a directory with a separate command, -r.
--limit-rate applies to all files together, --max-time and the retry options to each file.`},
	{"Metalinks", `A Metalink (RFC 5854) lists web mirrors and hashes of files. With a kwik URL its mirrors are used as
those of --web-mirror, and its size and sha-256 hash are required. Without one its files are fetched from the mirrors
alone. Each piece is verified if the Metalink has hashes of pieces, and a get resumes. Otherwise the hash of the whole
file is verified at the end, and a get does not resume. A file without sha-256 hashes is refused unless --checksum
gives one. Several files go into the directory DIR, under the paths that the Metalink names.`},
	{"Directories", `With -r, DEST is created if it is missing; its parent is not. Without DEST it is the last component of the URL. A slash at
the end of the URL makes no difference. Each file is verified against its own hash and appears when it is complete. A
secondary that has a part of the tree serves that part.

Modes (less the umask) and times are those on the server. Owners are kept only with --owner; --special-modes, --xattrs,
--acls, --specials and --outside-links keep more. The last line counts what was not kept. Symbolic links are made unchanged if
they lead to a place inside the tree, with .. only at their beginning. Others are skipped, and so are devices, FIFOs and
sockets. Names of one file (hard links) stay so, unless --no-hard-links is given. Holes stay holes, unless --no-sparse is given.
A directory in the place of a file, or a link in that of a directory, is replaced only
with --delete. Of names that differ only in case, where the file system does not tell them apart, the first is fetched and
the others fail.

--delete removes entries of DEST that the server does not have and that are not excluded, after everything else. In a
directory of which the server could not read an entry nothing is removed, nor are directories named lost+found. Nothing at all is
removed if the server has no entry, or if more than half of ten or more entries would go. --max-delete N or P% sets another
bound. --backup-dir keeps what is removed or replaced. DIR must be outside DEST; on another file system files are copied.

--update leaves a file of DEST as it is that is newer than the server's, and names it. If DEST is the served directory, in it or
around it, or if that is itself a mirror of DEST, nothing is done.

--dry-run changes nothing and prints a line on stdout for each entry that would change: fetch, link, make or delete, and its
name. Unprintable characters in names are escaped.

Entries that fail are named on stderr, the others are still fetched, and the exit status is the highest-ranked one. --max-time,
--limit-rate and the retry options apply to the whole command. --checksum, --range, --seed, --no-clobber and -i exclude -r.

--quick trusts sizes and modification times, as rsync does by default. A file of DEST with those of the server counts as
unchanged: its hash is neither requested nor computed. A change that keeps both is not found. Such a file still gets the
server's mode. Files that --checksum-file names are always read.

verify -r compares DEST with the server, by hashes, and names what differs, is missing or extra.`},
	{"Checksums", `--checksum ALGORITHM=HEX requires a hash of the whole file: blake3, sha256, sha512 or md5. MD5 finds accidents only.
--checksum-file FILE requires those of a file such as SHA256SUMS, MD5SUMS or B3SUMS, which may be local, - or a kwik URL. It
takes these lines, and ignores others:

    HEX  NAME              as sha256sum, md5sum and b3sum print it
    HEX *NAME
    SHA256 (NAME) = HEX    or SHA512, MD5, BLAKE3
    \HEX  NAME             with the escapes \\, \n and \r in NAME

A line with 64 digits and no algorithm may be SHA-256 or BLAKE3; either counts. For a file, NAME is its path on the server,
the end of that path, or its last component. With -r it is relative to the directory of the URL, or to one above it. Every
file that FILE names must have its hash. With -r and -i, files that it does not name are fetched as well. With -r, a name
that is not on the server is an error, unless --include and --exclude leave it out.

The hash is computed while the file arrives, and proved before the file gets its name. If it is wrong, the exit status is 6,
an old file stays and nothing else is left. To stdout the last bytes are written only after the proof. --range goes with
blake3 alone.`},
	{"Patterns", `--include and --exclude take the patterns of rsync. The first option whose pattern matches an entry decides; an
entry that no pattern matches is fetched. Nothing below an excluded directory is fetched, and --delete removes nothing that
is excluded.

    *            any bytes except a slash
    **           any bytes
    ?            one byte except a slash; an accented letter has two or more
    [a-z]        one byte of a set, never a slash; [!a-z] and [^a-z] one that is not in the set
    [[:upper:]]  likewise alnum, alpha, blank, cntrl, digit, graph, lower, print, punct, space and xdigit
    \            the next byte literally, if the pattern has any of *, ? and [; otherwise a backslash
    /a           a at the top of the tree
    a/b          the end of a path; likewise every pattern with a slash or **
    a            the last component of a path
    a/           directories only
    a/***        a directory and everything below it

For example, --include '*/' --include '*.jpg' --exclude '*' fetches the pictures of a tree.

A pattern that begins with "- " excludes and one with "+ " includes, whichever option it is in. The pattern ! removes all rules
before it. A file of --include-from or --exclude-from has a pattern in each line. Empty lines and those that begin with # or ; are
ignored, and all blanks count. Lines end with a line feed, a carriage return or both, or with --from0 with a NUL byte. The order of
the options is that of the command line, and the rules of a file are in the place of its option.

A pattern that rsync would never match is an error that names the line and the column. Examples are a set without an end and an
unknown class. So are rsync's filter rules that merge files or have modifiers.

--files-from names a file of paths, one a line, relative to the directory of the URL. They and everything below them are fetched,
unless a pattern excludes them. The directories above them are made whatever the patterns are. --delete removes entries of the directories that are named and of those
below, and nothing else. A path that the server does not have is an error; the others are still fetched. Comments and
the ends of lines are as above. Slashes at the ends of a path make no difference, and .. leads no higher than that directory.

With serve, patterns also decide what is served and listed. They are relative to the root.`},
	{"Trust", `A server is trusted if its key has the pin of the URL (?pin=). Without a pin it is trusted if its certificate is from a
known authority (--cacert, or the system's). Otherwise its key must be among the known hosts. An unknown server is accepted and recorded on loopback,
asked about on a terminal, and refused in a script.

Secondaries are trusted for verified bytes only; the primary vouches for their keys. With --checksum or #b3= no server is trusted
for the content.

The pin is a hash of the server's key, which serve makes when it first starts. On other machines a secondary needs the primary's
join token, a secret in a file on both.`},
	{"State", `The state directory (--state-dir, $STATE_DIRECTORY, or kwikcp in $XDG_STATE_HOME or ~/.local/state) holds the server's key (server.key)
and the known hosts (known_hosts). That of a primary, and of a secondary that scrubs, also holds the index of hash trees
(trees-*.db), which may be deleted at any time.`},
	{"Servers", `At shutdown clients continue with the other servers without losing a byte; clients that only this server can serve
have --drain-timeout to finish. So servers can be restarted one after the other under load.

The log has one line at the end of each transfer, served or refused. It names the client, the path, the bytes that this
server sent, the seconds and the outcome. The outcome is done, stopped (this server), lost and why, or the reason of the
refusal. A primary adds the number of
servers that it named to the client (sources).

A mirror (--mirror) joins at once and serves what it has so far. Its first round after a start compares every file by its hash,
later rounds, every --mirror-interval, by size and time. Entries that the primary does not have stay, unless --mirror-delete.
Deletions are bounded as those of get -r --delete. While the root is not in its place, nothing is mirrored.

The primary connects to a secondary before it names it to clients. It uses the address of --advertise if that is given,
otherwise the one from which the secondary joined.`},
	{"UDP buffers", `If the system allows only small UDP buffers, serve prints the command that raises them at its start, and get after a
large transfer:

    sysctl -w net.core.rmem_max=7500000 net.core.wmem_max=7500000`},
	{"Addresses", `Without -4 and -6, the IPv4 and IPv6 addresses of a name are tried in turn, a quarter of a second apart. The first that
answers wins.`},
}
