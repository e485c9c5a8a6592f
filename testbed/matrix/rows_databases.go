package matrix

import (
	_ "embed"

	"migrate/testbed"
)

// under runs a program until SIGTERM, and then a script. The program's failure is the client's.
func under(program, after string) string {
	return "trap 'ended=yes; kill -TERM $load 2>/dev/null' TERM\nended=no\n" + program + ` &
load=$!
status=0; wait $load || status=$?
# the signal ends wait, whether the program has ended by then or not
if [ $ended = yes ] && [ $status -gt 128 ]; then status=0; wait $load || status=$?; fi
[ $status -eq 0 ] || exit $status
` + after
}

// retrying waits for a server, with a program that ends at once.
func retrying(probe string) string {
	return "for i in $(seq 300); do if " + probe + " >/dev/null 2>&1; then break; fi; sleep 0.2; done\n"
}

// counting has the test program count by one of its protocols.
func counting(protocol, port, flags string) string {
	count := "workload count --protocol " + protocol + " --addr $ADDR:" + port + " " + flags
	return retrying(dialing(port)) + "exec " + count + " --duration 0 --report 50ms\n"
}

// dialing succeeds when something listens.
func dialing(port string) string { return "bash -c \"exec 3<>/dev/tcp/$ADDR/" + port + "\"" }

var (
	//go:embed programs/postgres.sh
	postgresLoad string
	//go:embed programs/mariadb.sh
	mariadbLoad string
	//go:embed programs/mosquitto.sh
	mosquittoLoad string
	//go:embed programs/sqlite.sh
	sqliteWriter string
)

var databases = []Row{
	{
		Name:  "redis",
		About: "one client increments and sets keys; at the end the counter and every acknowledged key are read",
		Image: testbed.ImageRedis,
		Start: "exec redis-server /etc/redis-testbed.conf",
		Load: &Client{Image: testbed.ImageTools, Script: retrying(dialing("6379")) +
			under("workload rediswrite --addr $ADDR:6379 --log /data/acked --duration 0 --interval 1ms --report 50ms",
				"workload redisverify --addr $ADDR:6379 --log /data/acked\n")},
	},
	{
		Name:  "memcached",
		About: "one client increments and adds items; at the end every item is read",
		Image: testbed.ImageDatabases, User: "app",
		Start: "exec memcached -m 64",
		Load:  &Client{Image: testbed.ImageTools, Script: counting("memcached", "11211", "--interval 1ms")},
	},
	{
		Name: "postgres",
		About: "pgbench with four clients, and one session that inserts numbers; at the end balances add up, no acknowledged number is " +
			"missing, and pg_amcheck finds tables and indexes sound",
		Image: testbed.ImageDatabases, User: "app",
		Start: `
bin=$(echo /usr/lib/postgresql/*/bin)
"$bin"/initdb -D /data/pg -A trust -U app --no-sync >/dev/null
echo "host all all all trust" >>/data/pg/pg_hba.conf
exec "$bin"/postgres -D /data/pg -h '*' -k /tmp -c shared_buffers=32MB`,
		Load: &Client{Image: testbed.ImageDatabases, Script: postgresLoad},
	},
	{
		Name: "mariadb",
		About: "one session inserts numbers, another moves money in transactions; at the end no acknowledged number is missing, the money " +
			"adds up, and CHECK TABLE is content. innodb_use_native_aio is off, since CRIU cannot move io_uring",
		Image: testbed.ImageDatabases, User: "app",
		Start: `
mariadb-install-db --force --user=app --datadir=/data/my --auth-root-authentication-method=normal --skip-test-db >/data/install.log 2>&1
exec mariadbd --no-defaults --datadir=/data/my --socket=/tmp/my.sock --bind-address=0.0.0.0 --skip-grant-tables --skip-name-resolve \
	--skip-networking=0 --innodb-use-native-aio=0 --innodb-buffer-pool-size=32M --pid-file=/tmp/my.pid`,
		Load: &Client{Image: testbed.ImageDatabases, Script: mariadbLoad},
	},
	{
		Name:  "etcd",
		About: "one client changes a key only if it has the expected value, and puts a key for each; at the end none is missing. GODEBUG=multipathtcp=0",
		Image: testbed.ImageDatabases, User: "app",
		Env:   []string{"GODEBUG=multipathtcp=0"},
		Start: "exec etcd --data-dir /data/etcd --listen-client-urls http://0.0.0.0:2379 --advertise-client-urls http://127.0.0.1:2379 --log-level error",
		Load: &Client{Image: testbed.ImageTools, Script: retrying(dialing("2379")) +
			counting("etcd", "2379", "")},
	},
	{
		Name:  "mosquitto",
		About: "a publisher and a subscriber with QoS 2 stay connected; every message has to come once and in order",
		Image: testbed.ImageDatabases, User: "app",
		Files: map[string]string{"mosquitto.conf": "listener 1883\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n"},
		Start: "exec mosquitto -c /data/mosquitto.conf",
		Load:  &Client{Image: testbed.ImageDatabases, Script: mosquittoLoad},
	},
	{
		Name:  "sqlite",
		About: "one connection in WAL mode, which locks the database for itself; every committed row is printed, and PRAGMA integrity_check is run at the end",
		Image: testbed.ImageDatabases, User: "app", Ticks: true,
		Start: "mode=exclusive\n" + sqliteWriter,
	},
	{
		Name:  "sqlite-shared",
		About: "a writer and readers in WAL mode; every committed row is printed, and PRAGMA integrity_check is run wherever it is",
		Image: testbed.ImageDatabases, User: "app", Ticks: true,
		Start: "mode=normal\n" + sqliteWriter,
		Check: `test "$(sqlite3 /data/numbers.db '.timeout 30000' 'pragma integrity_check' 'select count(*) = max(n) from numbers' | tr '\n' ' ')" = 'ok 1 '`,
		Refused: &Refusal{
			Words: "POSIX lock on a file that it has mapped",
			Why: "CRIU takes POSIX locks before it maps files, and loses those of mapped files when it closes them again; other processes " +
				"would take the database for unused",
			Link: "https://github.com/checkpoint-restore/criu/blob/v4.2/criu/cr-restore.c",
		},
	},
}
