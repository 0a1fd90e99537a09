package cmd

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"kwikcp/kwik"
)

// parseSize reads a number of bytes as curl does: a number, optionally with K, M, G or T for powers
// of 1024.
func parseSize(text string) (int64, error) {
	number, unit := text, int64(1)
	if text != "" {
		if i := strings.IndexByte("KMGT", strings.ToUpper(text[len(text)-1:])[0]); i >= 0 {
			number, unit = text[:len(text)-1], 1<<(10*(i+1))
		}
	}
	n, err := parseDecimal(number, unit)
	switch {
	case errors.Is(err, errRounded):
		return 0, fmt.Errorf("%q is less than a byte", text)
	case err != nil:
		return 0, fmt.Errorf("%q is not a number of bytes", text)
	}
	return n, nil
}

// limitRateOption returns --limit-rate; over names what is limited together.
func limitRateOption(to *string, over string) cli.Flag {
	f := stringOption(to, "limit-rate", "use at most `RATE` bytes per second of the network, "+over+", such as 500K or "+
		"1.5M; 0 means no limit")
	f.DefaultText = "none"
	return f
}

// parseRate reads the value of --limit-rate; nil means no limit.
func parseRate(text string) (*kwik.RateLimit, error) {
	if text == "" {
		return nil, nil
	}
	n, err := parseSize(text)
	if err != nil {
		return nil, usagef(adviseRate, "--limit-rate: %w", err)
	}
	if n == 0 {
		return nil, nil
	}
	return kwik.NewRateLimit(n), nil
}
