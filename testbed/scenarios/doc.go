// Package scenarios moves real containers between the hosts of a testbed with the real program, and looks at what is left
// where. It has nothing but tests; they need root.
//
// Every test has containers, agents and directories of its own, so that tests run side by side and each can tell whether
// both hosts are clean after it. What tests do to CRIU is done by a wrapper on the hosts, see faults_test.go.
//
//	go test ./testbed/scenarios -run TestMoveRedis -v
//
// MIGRATE_BINARY names a program to test instead of the one that is built from the checkout, MIGRATE_SCENARIOS_NAME a testbed of
// another name, to run beside another run. With MIGRATE_SCENARIOS_ENGINE=docker the failure tests have their containers on Docker 26.1, with
// docker-28.5 on that with the shim, and TestDockerCrash and TestDockerShimFaults are whole; other tests are not concerned.
package scenarios
