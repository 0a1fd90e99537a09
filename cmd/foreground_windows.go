package cmd

import "os"

// isForeground is true, since Windows has no job control.
func isForeground(*os.File) bool { return true }

// notifyContinued returns a channel that never gets a value.
func notifyContinued() (continued chan os.Signal, stop func()) { return nil, func() {} }
