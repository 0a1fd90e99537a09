package cmd

import (
	"errors"
	"strconv"
	"strings"
	"syscall"

	"kwikcp/internal/trust"
	"kwikcp/kwik"
	"kwikcp/transfer"
	"kwikcp/transfer/disk"
)

// This file has all hints: what users can do about an error.

// An advice is a hint that has no variable part.
type advice int

const (
	adviseNothing advice = iota
	adviseCommands
	adviseGet
	adviseTree
	adviseTreeInstead
	adviseTreeAlone
	advisePattern
	adviseFrom
	adviseOneStdin
	adviseList
	adviseListHash
	adviseJobs
	adviseName
	adviseNoClobber
	adviseSparse
	advisePreallocate
	adviseRange
	adviseRangeFetches
	adviseChecksum
	adviseOneChecksum
	adviseRangeHash
	adviseChecksumFile
	adviseChecksumTree
	adviseFamily
	adviseConnectTimeout
	adviseStall
	adviseConnections
	adviseRate
	adviseMemory
	adviseCACert
	adviseWebMirror
	adviseWebTemplate
	adviseNetrc
	adviseMetalink
	adviseCert
	adviseClientCert
	adviseToken
	adviseAllow
	adviseExpires
	adviseTokenFile
	adviseAccess
	adviseRevoked
	adviseStateDir
	adviseLs
	adviseVerify
	adviseVerifyFrom
	adviseVerifyTree
	adviseSum
	adviseServe
	adviseServeRoot
	adviseS3Root
	adviseWebRoot
	advisePlainRoot
	adviseRemoteRoot
	adviseMetalinkNetwork
	advisePriority
	adviseWebRootNetwork
	adviseWebRootLogin
	adviseS3Endpoint
	advisePlainEndpoint
	adviseS3Network
	adviseNoBucket
	adviseS3Credentials
	advisePrimary
	adviseRole
	adviseListen
	adviseAdvertise
	adviseUnreachable
	adviseLogLevel
	adviseLogFormat
	adviseMakeToken
	adviseShortToken
	adviseMirror
	adviseInterval
	adviseMaxDelete
	adviseBackup
	adviseDemo
	adviseDemoName
	adviseDoctor
	adviseMan
	adviseCompletion
	adviseMakeDirectory
	adviseStdout
	adviceCount
)

var advices = [adviceCount]string{
	adviseNothing:        "",
	adviseCommands:       "kwikcp --help lists the commands; kwikcp demo shows a transfer",
	adviseGet:            "kwikcp get kwik://HOST:PORT/PATH FILE",
	adviseTree:           "kwikcp get -r kwik://HOST:PORT/DIR/ DEST",
	adviseTreeInstead:    "to fetch a directory use -r: kwikcp get -r kwik://HOST:PORT/DIR/ DEST",
	adviseTreeAlone:      "fetch each directory with a separate command: kwikcp get -r kwik://HOST:PORT/DIR/ DEST",
	advisePattern:        `such as '*.tmp', '/a/[0-9]*' or 'dir/***'; kwikcp man describes patterns`,
	adviseOneStdin:       "put one of the lists into a file",
	adviseFrom:           "each line is a path below the directory of the URL; with --from0 a NUL byte ends it",
	adviseList:           "each line is a URL; a file name and URLs of web mirrors may follow, each after a tab",
	adviseListHash:       "put the hash into the line: URL#b3=HEX",
	adviseJobs:           "it is the number of files to fetch at once",
	adviseName:           "name a file",
	adviseNoClobber:      "without both, FILE is replaced; --no-clobber=false overrides KWIKCP_NO_CLOBBER",
	advisePreallocate:    "auto suits nearly every file system",
	adviseSparse:         "without both, holes are kept; --no-sparse=false overrides KWIKCP_NO_SPARSE",
	adviseRange:          "such as 0-99, 100- or -100",
	adviseRangeFetches:   "use --range alone",
	adviseChecksum:       "kwikcp sum FILE and b3sum print it",
	adviseOneChecksum:    "remove one of them",
	adviseRangeHash:      "a part is proved by --checksum blake3=HEX, the hash of the whole file",
	adviseChecksumFile:   "each line is a hash, two spaces and a name, as sha256sum and b3sum print it",
	adviseChecksumTree:   "names in it are relative to the directory of the URL; --exclude leaves some out",
	adviseFamily:         "without both, IPv4 and IPv6 are tried",
	adviseConnectTimeout: "such as 10s",
	adviseStall:          "such as 5m; the default is 60 s",
	adviseConnections:    "auto suits nearly every network",
	adviseRate:           "such as 500K or 1.5M bytes per second; K, M and G are powers of 1024",
	adviseMemory:         "such as 256M or 2G bytes; K, M and G are powers of 1024",
	adviseCACert:         "name a file of PEM certificates",
	adviseWebMirror:      "a mirror is an https URL, such as https://HOST/pub/{path}; --insecure-http-mirrors allows http for get",
	adviseWebTemplate:    "write {path} where the path of each file belongs, such as https://HOST/pub/{path}",
	adviseNetrc:          "name a file with lines such as: machine HOST login USER password SECRET",
	adviseMetalink:       "it needs https URLs, a size and sha-256 hashes; see kwikcp man",
	adviseCert:           "kwikcp serve --cert FILE --key FILE; both are PEM, and only this user may read the key",
	adviseClientCert:     "kwikcp get --cert FILE --key FILE; both are PEM, and only this user may read the key",
	adviseToken:          "kwikcp token --allow /DIR/ --expires 30d --name NAME",
	adviseAllow:          "such as /DIR/ for a directory and all that is below it, /FILE for one file, or /",
	adviseExpires:        "such as 30d, 12h, 90m, 2027-01-31 or never",
	adviseTokenFile:      "name a file with the line that kwikcp token printed",
	adviseAccess:         "kwikcp serve --role primary --require-token --revoked FILE",
	adviseRevoked:        "name a file with the names of revoked tokens, one a line; it may be empty",
	adviseStateDir:       "set HOME, XDG_STATE_HOME or STATE_DIRECTORY, or name a directory with --state-dir",
	adviseLs:             "kwikcp ls kwik://HOST:PORT/DIR/",
	adviseVerify:         "kwikcp verify FILE --checksum blake3=HEX, or --from URL",
	adviseVerifyFrom:     "kwikcp verify FILE --from URL lists the bytes that differ from a server's",
	adviseVerifyTree:     "kwikcp verify -r kwik://HOST:PORT/DIR/ DIR",
	adviseSum:            "kwikcp sum FILE, kwikcp sum -r DIR, or kwikcp sum --check FILE",
	adviseServe:          "kwikcp serve --help shows both forms",
	adviseS3Root:         "kwikcp serve --role primary --root s3://BUCKET/PREFIX",
	adviseWebRoot:        "kwikcp serve --role primary --root https://HOST/PREFIX",
	advisePlainRoot:      "--insecure-http-root allows it, for a web server on this machine or in a trusted network",
	adviseRemoteRoot:     "--root DIR, --root https://HOST/PREFIX or --root s3://BUCKET/PREFIX, in lower case",
	adviseMetalinkNetwork: "check the URL, and whether this machine reaches the web server; see --cacert, --netrc " +
		"and HTTPS_PROXY",
	advisePriority:       "such as https://HOST/pub/{path},1; small numbers are used first",
	adviseWebRootNetwork: "is the web server reachable, and its certificate from a known authority? see --cacert",
	adviseWebRootLogin:   "--netrc FILE has the user and the password for its host",
	adviseS3Endpoint:     "such as --s3-endpoint https://minio.example:9000",
	advisePlainEndpoint:  "--insecure-s3-endpoint allows it, for a service on this machine or in a trusted network",
	adviseS3Network:      "is the service reachable, and --s3-endpoint right? a proxy is taken from the environment",
	adviseNoBucket:       "check the name; --s3-endpoint names a service other than Amazon S3",
	adviseS3Credentials: "credentials are those of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, " +
		"of ~/.aws/credentials or of the machine's role; they must allow to list and to read",
	adviseServeRoot:     "name the directory to serve with --root DIR",
	advisePrimary:       "ADDR is host:port of the primary, or the URL that it printed",
	adviseRole:          "--role primary, or --role secondary --primary ADDR",
	adviseListen:        "such as :4433, 127.0.0.1:0 or [::]:4433",
	adviseAdvertise:     "such as 192.0.2.7:4433",
	adviseUnreachable:   "if clients reach that secondary at another address, set it there with --advertise",
	adviseLogLevel:      "debug, info, warn or error",
	adviseLogFormat:     "text or json",
	adviseMakeToken:     "make one with: (umask 077; head -c 24 /dev/urandom | base64 > FILE)",
	adviseShortToken:    "a few dozen random characters are enough",
	adviseMirror:        "kwikcp serve --role secondary --primary URL --root DIR --mirror",
	adviseInterval:      "such as 60 or 1m",
	adviseMaxDelete:     "such as 100 for a number of entries, or 20% of those in the directory",
	adviseBackup:        "name a directory outside the one to mirror into",
	adviseDemo:          "kwikcp demo FILE",
	adviseDemoName:      "choose a file with another name",
	adviseDoctor:        "kwikcp doctor kwik://HOST:PORT/",
	adviseMan:           "kwikcp man | man -l -",
	adviseCompletion:    "kwikcp completion bash, zsh or fish",
	adviseMakeDirectory: "make it first, or remove the slash at the end to name a file",
	adviseStdout:        `"-" writes to stdout, which may be piped to anything`,
}

// resumes ends the hint of an error that left a part file.
const resumes = "run the same command again to resume"

// A hinter is an error that knows its own hint.
type hinter interface {
	error
	hint() string
}

func (e usageError) hint() string   { return advices[e.about] }
func (e advisedError) hint() string { return advices[e.about] }

func (e rootError) hint() string { return advices[e.about] }

func (e commandError) hint() string {
	const list = "kwikcp --help lists the commands"
	if e.near == "" {
		return list
	}
	return "did you mean kwikcp " + e.near + "? " + list
}

func (e flagError) hint() string {
	list := "kwikcp --help lists the options"
	if e.command != "" {
		list = "kwikcp " + e.command + " --help lists the options"
	}
	switch {
	case e.secret != "":
		return "every user of this machine can see arguments; pass the secret with " + e.secret + " FILE, or in " +
			secretVariable(e.secret)
	case e.near != "":
		return "did you mean " + e.near + "? " + list
	}
	return list
}

func (e changedKeyError) hint() string {
	return "if the server was reinstalled, remove its line from " + e.file + ", or use its URL with ?pin=" +
		e.pin.String() + "; ask its operator whether that is its pin before you do"
}

func (e certificateError) hint() string {
	return "ask the server's operator for a certificate that fits; if " + e.pin.String() +
		" is the server's pin, its URL with ?pin=" + e.pin.String() + " works meanwhile"
}

func (e knownHostsError) hint() string { return "repair or remove " + e.file }

func (e unknownHostError) hint() string {
	return "if " + e.pin.String() + " is the server's pin, use kwik://" + e.hostport + "/...?pin=" + e.pin.String()
}

// accessHints are the hints for the refusals of servers that restrict access.
var accessHints = map[transfer.AccessReason]string{
	transfer.AccessOther: "ask the operator of the server",
	transfer.AccessNoToken: "name the file of your token with --token-file FILE, or set KWIKCP_TOKEN; " +
		"the operator of the server makes one with " +
		"kwikcp token",
	transfer.AccessTokenInvalid: "is it the token of another server, or incomplete? " +
		"kwikcp token --show FILE prints its content",
	transfer.AccessTokenExpired:  "ask the operator of the server for a new token",
	transfer.AccessTokenNotYet:   "check the clock of the server and that of the machine that made the token",
	transfer.AccessTokenRevoked:  "ask the operator of the server for a new token",
	transfer.AccessForbidden:     "kwikcp ls kwik://HOST:PORT/ lists what the token allows",
	transfer.AccessNoCertificate: "name your certificate and its key with --cert FILE --key FILE",
	transfer.AccessCertificateOther: "ask the operator of the server which authority must have signed it; " +
		"check its dates and the clocks",
}

// connectHints are the hints for servers to which there is no connection.
var connectHints = map[transfer.ConnectReason]string{
	transfer.ConnectNoAnswer:  hintOfKind(transfer.KindNetwork),
	transfer.ConnectClosed:    "no kwikcp server listens on that port: is it running, and is the port right?",
	transfer.ConnectNoRoute:   "is this machine connected, and the address right? kwikcp get -4 and -6 choose a family",
	transfer.ConnectNoName:    "is the name spelled correctly? an address works as well",
	transfer.ConnectNoLookup:  "does DNS work on this machine? an address works as well",
	transfer.ConnectNoAddress: "omit -4 and -6, or use the other one",
}

// hintOf returns what the user can do about an error; empty if there is nothing to say.
func hintOf(err error) string {
	_, resumable := errors.AsType[resumableError](err)
	if _, ok := errors.AsType[interruption](err); ok {
		return ""
	}
	if _, ok := errors.AsType[*transfer.TimeLimitError](err); ok {
		if resumable {
			return resumes
		}
		return ""
	}
	if e, ok := errors.AsType[hinter](err); ok {
		return e.hint()
	}
	if _, ok := errors.AsType[*transfer.RangeError](err); ok {
		return "bytes count from 0; --range -N is the last N"
	}
	if _, ok := errors.AsType[*transfer.MirrorError](err); ok {
		return "run the same command again; it fetches only what failed"
	}
	if e, ok := errors.AsType[*transfer.AccessError](err); ok {
		return accessHints[e.Reason]
	}
	if _, ok := errors.AsType[*transfer.ChecksumError](err); ok {
		return "nothing was kept; compare the checksum with its publisher's, and ask the operator of the server " +
			"to check the file there"
	}
	if e, ok := errors.AsType[*transfer.LoopError](err); ok {
		return loopHint(e.Loop)
	}
	if e, ok := errors.AsType[*transfer.LockError](err); ok {
		return "kwikcp makes a file of this name and removes it; move or remove " + strconv.Quote(e.Path)
	}
	if errors.Is(err, transfer.ErrIsFile) {
		return "omit -r to fetch a file"
	}
	e, ok := errors.AsType[*transfer.Error](err)
	if !ok {
		return ""
	}
	return hintOfTransfer(e, resumable)
}

// hintOfTransfer returns the hint for an error of a transfer. resumable means that a part file was
// left.
func hintOfTransfer(e *transfer.Error, resumable bool) string {
	hint := hintOfKind(e.Kind)
	if _, ok := errors.AsType[*trust.PinError](e); ok {
		hint = "this may be an attack: someone may be answering in place of the server; " +
			"ask its operator for the present pin"
	}
	if c, ok := errors.AsType[*transfer.ConnectError](e); ok && e.Kind == transfer.KindNetwork {
		hint = connectHints[c.Reason]
	}
	if busy := e.Kind == transfer.KindNetwork && errors.Is(e, kwik.ErrServerBusy); busy {
		hint = "try again later"
		if resumable {
			return hint + "; --retry N does so automatically"
		}
		return hint
	}
	_, isRemote := errors.AsType[*transfer.RemoteError](e)
	if serverFailed := e.Kind == transfer.KindOther && isRemote; serverFailed {
		return "the server's log has the cause; ask its operator"
	}
	local := e.Kind == transfer.KindLocal || e.Kind == transfer.KindNoSpace
	if remedy := remedyFor(e); local && remedy != "" {
		hint = remedy
	}
	switch {
	case !resumable:
		return hint
	case e.Kind == transfer.KindNetwork:
		return resumes + "; --retry N does so automatically"
	case e.Kind == transfer.KindNoSpace && !errors.Is(e, syscall.EDQUOT):
		return "make room; " + resumes
	case local:
		return strings.TrimPrefix(hint+"; "+resumes, "; ")
	}
	return hint
}

func loopHint(loop transfer.Loop) string {
	switch loop {
	case transfer.LoopInside:
		return "choose a directory outside, or exclude it with --exclude"
	case transfer.LoopTwoWays:
		return "mirror in one direction only, or use --update without deletions in both"
	}
	return "choose another directory"
}

func hintOfKind(kind transfer.Kind) string {
	switch kind {
	case transfer.KindNotFound:
		return "paths are relative to the directory that the server serves, and case matters"
	case transfer.KindRefused:
		return "kwikcp serve prints the server's URL with its current pin when it starts"
	case transfer.KindNetwork:
		return "is a kwikcp server running there, and does the firewall pass UDP to that port?"
	case transfer.KindIntegrity:
		return "no wrong byte was kept; ask the operator of the server to check the file there"
	case transfer.KindNoSpace:
		return "make room and run the same command again"
	case transfer.KindBusy:
		return "wait for it, or choose another file name"
	case transfer.KindExists:
		return "choose another file name, or omit --no-clobber to replace the file"
	case transfer.KindDeleteLimit:
		return "is the source complete, and its disk mounted there? --dry-run lists what would go; " +
			"--max-delete N or P% allows it"
	case transfer.KindChanged:
		return "run the same command again to get the new version"
	}
	return ""
}

// remedies are the hints for errors of the local system.
var remedies = []struct {
	err    error
	remedy string
}{
	{transfer.ErrIsDirectory, "name a file in it"},
	{disk.ErrName, "choose another name, or another file system"},
	{syscall.EDQUOT, "remove files of yours, or ask for a larger quota"},
	{syscall.EFBIG, "the file system, or ulimit -f, allows no file of that size"},
	{syscall.EIO, "the disk or its connection fails; see the system's log"},
	{syscall.EROFS, "choose a directory that is not mounted read-only"},
	{syscall.EACCES, "check its permissions and those of its directory"},
	{syscall.EPERM, "it may be write-protected (lsattr), or belong to another user"},
	{syscall.ENAMETOOLONG, "choose a shorter name"},
	{syscall.EBADF, "it is not open in that direction; check the redirections (< and >)"},
	{syscall.EMFILE, "allow the process more open files (ulimit -n)"},
	{syscall.ENFILE, "other programs have too many files open; try again later"},
	{syscall.EBUSY, "something is mounted there, as in a container; choose another name"},
	{syscall.ENODEV, "check that its file system is still there"},
	{syscall.ESTALE, "check that its file system is still there"},
	{syscall.ENOTCONN, "check that its file system is still there"},
	{disk.ErrMoved, "restore the directory, or start kwikcp again to use the one that is there now"},
	{disk.ErrRemoved, "restore the directory; is its file system mounted?"},
	{syscall.EADDRINUSE, "choose another port with --listen HOST:PORT; port 0 means any free port"},
}

// remedyFor returns the hint for an error of the local system, empty if there is none.
func remedyFor(err error) string {
	for _, r := range remedies {
		if errors.Is(err, r.err) {
			return r.remedy
		}
	}
	return ""
}
