package trust

import (
	"fmt"
	"io"
	"os"
	"runtime"
)

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
	// The group may read it, because that is how container systems hand out secrets. Windows has
	// other means, and always shows 0666 here.
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("mode %#o opens it to every user; chmod it to 0600", info.Mode().Perm())
	}
	return io.ReadAll(io.LimitReader(f, limit))
}
