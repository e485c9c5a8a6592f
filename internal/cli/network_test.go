package cli

import (
	"flag"
	"maps"
	"testing"

	"github.com/urfave/cli/v2"

	"migrate/internal/fail"
)

func TestParseNetworks(t *testing.T) {
	parse := func(values ...string) (map[string]string, error) {
		set := flag.NewFlagSet("send", flag.ContinueOnError)
		set.Var(cli.NewStringSlice(values...), "network", "")
		return parseNetworks(cli.NewContext(cli.NewApp(), set, nil))
	}
	for _, test := range []struct {
		values []string
		want   map[string]string
	}{
		{nil, map[string]string{}},
		{[]string{"other"}, map[string]string{"": "other"}},
		{[]string{"a=b", "c=d", "a=b"}, map[string]string{"a": "b", "c": "d"}},
	} {
		if got, err := parse(test.values...); err != nil || !maps.Equal(got, test.want) {
			t.Errorf("%v: %v, %v", test.values, got, err)
		}
	}
	for _, values := range [][]string{{""}, {"=b"}, {"a="}, {"a=b=c"}, {"a=b", "a=c"}, {"b", "c"}, {"a=b", "c"}} {
		if got, err := parse(values...); fail.Exit(err) != 2 {
			t.Errorf("%v: got %v, %v, want a usage error", values, got, err)
		}
	}
}
