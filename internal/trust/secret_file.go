package trust

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
)

// IsOpenToAll reports whether every user may read or write a file. The group may, because that is
// how container systems hand out secrets. Windows has other means, and always shows 0666 here.
func IsOpenToAll(info fs.FileInfo) bool {
	return runtime.GOOS != "windows" && info.Mode().Perm()&0o007 != 0
}

// ReadSecret reads at most limit bytes of a file that holds a secret. It refuses a file that other
// users may read or write. The error wraps fs.ErrNotExist if there is none.
func ReadSecret(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if IsOpenToAll(info) {
		return nil, fmt.Errorf("mode %#o opens it to every user; chmod it to 0600", info.Mode().Perm())
	}
	return io.ReadAll(io.LimitReader(f, limit))
}
