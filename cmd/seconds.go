package cmd

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// A secondsValue is the value of an option for a time: seconds, perhaps with a fraction, as with curl, or with units as package time
// reads them. It implements flag.Value.
type secondsValue struct{ time.Duration }

// maxSeconds is the longest time that an option can name, a century.
const maxSeconds = 100 * 365 * 24 * 3600

func (v *secondsValue) Set(text string) error {
	if n, err := strconv.ParseFloat(text, 64); err == nil {
		if strings.Trim(text, "-0123456789.") != "" || n > maxSeconds || n < -maxSeconds {
			return errors.New("not a time")
		}
		v.Duration = time.Duration(n * float64(time.Second))
		return nil
	}
	d, err := time.ParseDuration(text)
	v.Duration = d
	return err
}

func (v *secondsValue) String() string {
	if v == nil || v.Duration == 0 {
		return ""
	}
	return v.Duration.String()
}

// secondsFlag returns an option for a time.
func secondsFlag(name string, value time.Duration, usage string) cli.Flag {
	env := "KWIKCP_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	return &cli.GenericFlag{Name: name, EnvVars: []string{env}, Value: &secondsValue{value}, Usage: usage}
}

// seconds returns the value of an option for a time.
func seconds(c *cli.Context, name string) time.Duration {
	if v, ok := c.Generic(name).(*secondsValue); ok {
		return v.Duration
	}
	return 0
}
