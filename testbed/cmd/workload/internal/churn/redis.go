package churn

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"migrate/testbed/cmd/workload/internal/resp"
)

// A keeper writes keys to a redis that saves itself all the time: it forks, and the child writes down a memory that it shares
// with its parent, which goes on changing.
type keeper struct {
	random
	*server
	conn *resp.Conn
	seed uint64
	gens []uint64 // of each key, acknowledged; 0: there is none
	next uint64
}

const (
	valueSize  = 1 << 10
	redisBatch = 16
	// saveDelay makes a save take a second or two, in microseconds for each key.
	saveDelay = "100"
)

func redisSaving(o Options) (*cast, error) {
	path, err := findProgram("redis-server")
	if err != nil {
		return nil, err
	}
	dir, err := homeOf(o, "redis")
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "redis.sock")
	s, err := begin(command(dir, path, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", dir, "--rdb-key-save-delay", saveDelay))
	if err != nil {
		return nil, err
	}
	k := &keeper{random: random(o.Seed), server: s, seed: o.Seed, gens: make([]uint64, o.MiB<<20/valueSize/2)}
	err = s.await(func() error {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return err
		}
		k.conn = resp.New(conn, startLimit)
		_, err = k.conn.Do("PING")
		return err
	})
	if err != nil {
		return nil, err
	}
	return usual(nil, k)
}

func keyName(i int) string { return "key:" + strconv.Itoa(i) }

// value is what a generation of a key holds.
func (k *keeper) value(i int, gen uint64) string {
	var b strings.Builder
	for n := uint64(0); b.Len() < valueSize; n++ {
		fmt.Fprintf(&b, "%016x", mix(k.seed^uint64(i)<<32^gen<<8^n))
	}
	return b.String()
}

// act writes some keys, takes some away, and sees to it that redis saves.
func (k *keeper) act() (*Damage, error) {
	commands := [][]string{{"BGSAVE"}}
	keys := map[int]uint64{}
	for range redisBatch {
		i := int(k.below(uint64(len(k.gens))))
		k.next++
		gen, command := k.next, []string(nil)
		if k.below(16) == 0 {
			gen, command = 0, []string{"DEL", keyName(i)}
		} else {
			command = []string{"SET", keyName(i), k.value(i, gen)}
		}
		commands, keys[i] = append(commands, command), gen
	}
	if _, err := k.conn.DoAll(commands[:1]); err != nil && !strings.Contains(err.Error(), "in progress") {
		return nil, k.explain(err)
	}
	if _, err := k.conn.DoAll(commands[1:]); err != nil {
		return nil, k.explain(err)
	}
	for i, gen := range keys {
		k.gens[i] = gen
	}
	return nil, nil
}

// check reads every key that was acknowledged, and what became of the last save.
func (k *keeper) check() (int, *Damage, error) {
	const batch = 256
	pages := 0
	for from := 0; from < len(k.gens); from += batch {
		command := []string{"MGET"}
		for i := from; i < min(from+batch, len(k.gens)); i++ {
			command = append(command, keyName(i))
		}
		answer, err := k.conn.Do(command...)
		if err != nil {
			return 0, nil, k.explain(err)
		}
		values, ok := answer.([]any)
		if !ok || len(values) != len(command)-1 {
			return 0, nil, fmt.Errorf("redis: MGET of %d keys answers %v", len(command)-1, answer)
		}
		for n, is := range values {
			if d := k.look(from+n, is); d != nil {
				return 0, d, nil
			}
		}
		pages += len(values) * valueSize / pageSize
	}
	info, err := k.conn.Do("INFO", "persistence")
	if err != nil {
		return 0, nil, k.explain(err)
	}
	if text, _ := info.(string); !strings.Contains(text, "rdb_last_bgsave_status:ok") {
		return 0, &Damage{What: "redis could not save itself", Is: k.said.text()}, nil
	}
	return pages, nil, nil
}

func (k *keeper) look(i int, is any) *Damage {
	switch gen := k.gens[i]; {
	case gen == 0 && is == nil, gen != 0 && is == k.value(i, gen):
		return nil
	default:
		return &Damage{What: "key " + keyName(i), ID: uint64(i), Gen: gen, Is: fmt.Sprintf("%.60v", is)}
	}
}
