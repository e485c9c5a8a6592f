package churn

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// A database is a PostgreSQL with pgbench at work on it.
type database struct {
	*server
	bench *server
	dir   string
	bin   string
}

// postgresSettings keep everything in memory, where it has to be found again.
var postgresSettings = map[string]string{
	"listen_addresses": "", "shared_buffers": "32MB", "fsync": "off", "huge_pages": "off", "max_connections": "20",
	"checkpoint_timeout": "30s", "log_min_messages": "warning",
}

const benchClients = "2"

func postgres(o Options) (*cast, error) {
	initdb, err := findProgram("initdb", "/usr/lib/postgresql/*/bin")
	if err != nil {
		return nil, err
	}
	dir, err := homeOf(o, "postgres")
	if err != nil {
		return nil, err
	}
	d := &database{dir: dir, bin: filepath.Dir(initdb)}
	data := filepath.Join(dir, "data")
	if _, err := output(command(dir, initdb, "-D", data, "-U", "app", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")); err != nil {
		return nil, err
	}
	args := []string{"-D", data, "-k", dir}
	for name, value := range postgresSettings {
		args = append(args, "-c", name+"="+value)
	}
	if d.server, err = begin(command(dir, filepath.Join(d.bin, "postgres"), args...)); err != nil {
		return nil, err
	}
	if err := d.await(func() error { _, err := d.query("SELECT 1"); return err }); err != nil {
		return nil, err
	}
	if _, err := output(d.client("pgbench", "-i", "-q", "-s", strconv.Itoa(max(o.MiB/16, 1)))); err != nil {
		return nil, d.explain(err)
	}
	if _, err := d.query("CREATE EXTENSION amcheck"); err != nil {
		return nil, d.explain(err)
	}
	const forEver = "1000000"
	d.bench, err = begin(d.client("pgbench", "-n", "-c", benchClients, "-R", "200", "-T", forEver))
	return &cast{actors: []actor{d}, burst: 1, pause: 10 * usualPause}, err
}

// client is a program that connects to the server.
func (d *database) client(name string, args ...string) *exec.Cmd {
	return command(d.dir, filepath.Join(d.bin, name), append(args, "-h", d.dir, "-U", "app", "postgres")...)
}

func (d *database) query(text string) (string, error) {
	return output(d.client("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", text))
}

// act sees that both are there; they need nobody to work.
func (d *database) act() (*Damage, error) {
	select {
	case <-d.ended:
		return nil, d.explain(errors.New("it has ended"))
	case <-d.bench.ended:
		return nil, d.bench.explain(errors.New("it has ended"))
	default:
		return nil, nil
	}
}

// What pgbench changes has to add up, in one snapshot; indexes have to be in order, hold what the tables hold, and tables no
// page that cannot be.
const (
	sums = `SELECT (SELECT sum(abalance) FROM pgbench_accounts) || ' ' || (SELECT sum(tbalance) FROM pgbench_tellers) || ' ' ||
		(SELECT sum(bbalance) FROM pgbench_branches) || ' ' || coalesce((SELECT sum(delta) FROM pgbench_history), 0)`
	indexes = `SELECT bt_index_parent_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relname LIKE 'pgbench%'`
	heaps   = `SELECT relname, blkno, offnum, msg FROM pg_class c, verify_heapam(c.oid) v WHERE c.relname LIKE 'pgbench%' AND c.relkind = 'r'`
	blocks  = `SELECT (sum(pg_relation_size(oid)) / 4096)::bigint FROM pg_class WHERE relname LIKE 'pgbench%' AND relkind IN ('r', 'i')`
)

func (d *database) check() (int, *Damage, error) {
	found, err := d.query(sums)
	if err != nil {
		return 0, nil, d.explain(err)
	}
	if f := strings.Fields(found); len(f) != 4 || f[0] != f[1] || f[0] != f[2] || f[0] != f[3] {
		return 0, &Damage{What: "postgres: the balances of accounts, tellers, branches and history", Found: found}, nil
	}
	if _, err := d.query(indexes); err != nil {
		return 0, &Damage{What: "postgres: an index", Is: err.Error()}, nil
	}
	if found, err = d.query(heaps); err != nil || strings.TrimSpace(found) != "" {
		return 0, &Damage{What: "postgres: a table", Is: fmt.Sprint(found, err)}, nil
	}
	if found, err = d.query(blocks); err != nil {
		return 0, nil, d.explain(err)
	}
	pages, err := strconv.Atoi(strings.TrimSpace(found))
	return pages, nil, err
}
