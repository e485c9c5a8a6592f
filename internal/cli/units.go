package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// Units of bandwidth in bytes per second. Names are compared without regard to case, but for a lone b, which people use
// for both bits and bytes.
var bandwidthUnits = map[string]float64{
	"":  1,
	"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
	"bit": 1. / 8, "kbit": 1e3 / 8, "mbit": 1e6 / 8, "gbit": 1e9 / 8,
	"kibit": 1 << 7, "mibit": 1 << 17, "gibit": 1 << 27,
}

const bandwidthRemedy = "write bytes per second as 100MiB or 100MB, bits per second as 800mbit or 1gbit"

// parseBandwidth reads a rate such as 100MiB or 800mbit, with or without "/s", as bytes per second.
func parseBandwidth(text string) (int64, error) {
	s := strings.TrimSpace(text)
	s = strings.TrimSuffix(strings.TrimSuffix(s, "/s"), "ps")
	number, unit := splitNumber(s)
	v, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, usage(fmt.Sprintf("bandwidth %q does not begin with a number", text), bandwidthRemedy)
	}
	if strings.HasSuffix(unit, "b") && !strings.HasSuffix(strings.ToLower(unit), "ib") {
		return 0, usage(fmt.Sprintf("bandwidth %q: %q may mean bits or bytes", text, unit), bandwidthRemedy)
	}
	factor, ok := bandwidthUnits[strings.ToLower(unit)]
	if !ok {
		return 0, usage(fmt.Sprintf("bandwidth %q has the unknown unit %q", text, unit), bandwidthRemedy)
	}
	switch rate := v * factor; {
	case rate < 1:
		return 0, usage(fmt.Sprintf("bandwidth %q is less than one byte per second", text), "leave --bandwidth out for no limit")
	case rate > math.MaxInt64/2:
		return 0, usage(fmt.Sprintf("bandwidth %q is too large", text), "leave --bandwidth out for no limit")
	default:
		return int64(rate), nil
	}
}

// sizeUnits are bytes.
var sizeUnits = map[string]float64{
	"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}

// parseSize reads an amount of bytes such as 20GiB.
func parseSize(text string) (int64, error) {
	number, unit := splitNumber(strings.TrimSpace(text))
	v, err := strconv.ParseFloat(number, 64)
	factor, ok := sizeUnits[strings.ToLower(unit)]
	if err != nil || !ok || v*factor < 1 || v*factor > math.MaxInt64/2 {
		return 0, usage(fmt.Sprintf("%q is no size", text), "write bytes as 500MiB or 20GiB")
	}
	return int64(v * factor), nil
}

// splitNumber parts a number from the unit behind it.
func splitNumber(s string) (number, unit string) {
	cut := strings.IndexFunc(s, func(r rune) bool { return !unicode.IsDigit(r) && r != '.' })
	if cut < 0 {
		return s, ""
	}
	return s[:cut], strings.TrimSpace(s[cut:])
}
