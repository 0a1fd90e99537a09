package transfer

import "errors"

func mkfifo(string) error { return errors.New("no FIFOs in directories here") }
