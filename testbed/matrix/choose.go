package matrix

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// Choose picks rows: all of them for "", so many at random for a number, else those that are named, with commas.
func Choose(rows []Row, what string, seed uint64) ([]Row, error) {
	what = strings.TrimSpace(what)
	if what == "" {
		return rows, nil
	}
	if n, err := strconv.Atoi(what); err == nil {
		if n < 1 || n > len(rows) {
			return nil, fmt.Errorf("%d rows: there are %d", n, len(rows))
		}
		order := rand.New(rand.NewPCG(seed, 0)).Perm(len(rows))[:n]
		slices.Sort(order)
		var chosen []Row
		for _, i := range order {
			chosen = append(chosen, rows[i])
		}
		return chosen, nil
	}
	var chosen []Row
	for name := range strings.SplitSeq(what, ",") {
		i := slices.IndexFunc(rows, func(r Row) bool { return r.Name == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("row %q: known are %s", name, strings.Join(Names(rows), ", "))
		}
		chosen = append(chosen, rows[i])
	}
	return chosen, nil
}

// Names are those of rows.
func Names(rows []Row) (names []string) {
	for _, r := range rows {
		names = append(names, r.Name)
	}
	return names
}
