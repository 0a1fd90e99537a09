package cmd

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"kwikcp/kwik"
)

// parseSize reads a number of bytes: digits, perhaps with a fraction, and perhaps K, M, G or T, which stand for powers of 1024, as curl
// reads them.
func parseSize(text string) (int64, error) {
	number, unit := text, 1.0
	if text != "" {
		if i := strings.IndexByte("KMGT", strings.ToUpper(text[len(text)-1:])[0]); i >= 0 {
			number, unit = text[:len(text)-1], math.Pow(1024, float64(i+1))
		}
	}
	if n, err := strconv.ParseFloat(number, 64); err == nil && strings.Trim(number, "0123456789.") == "" && n*unit < math.MaxInt64 {
		return int64(n * unit), nil
	}
	return 0, fmt.Errorf("%q is no number of bytes", text)
}

// limitRateFlag is the option for what uses up to so much of the network; over says whose use counts.
func limitRateFlag(over string) cli.Flag {
	return &cli.StringFlag{
		Name: "limit-rate", EnvVars: []string{"KWIKCP_LIMIT_RATE"}, DefaultText: "none",
		Usage: "take up at most `RATE` bytes a second of the network, " + over + ", such as 500K or 1.5M; 0 means no limit",
	}
}

// rateLimit returns the limit of --limit-rate, nil if there is none.
func rateLimit(c *cli.Context) (*kwik.RateLimit, error) {
	text := c.String("limit-rate")
	if text == "" {
		return nil, nil
	}
	n, err := parseSize(text)
	if err != nil {
		return nil, usageError{fmt.Errorf("--limit-rate: %w", err), "such as 500K or 1.5M, in bytes a second; K, M and G are powers of 1024"}
	}
	if n == 0 {
		return nil, nil
	}
	return kwik.NewRateLimit(n), nil
}
