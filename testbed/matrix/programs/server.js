// Answers a line "seq N" with the same, and counts in a worker thread, which gets each number after it has sent the one before.
const { Worker } = require('worker_threads');
const net = require('net');

const worker = new Worker(`
	const { parentPort } = require('worker_threads');
	parentPort.on('message', n => setTimeout(() => parentPort.postMessage(n + 1), 30));
`, { eval: true });
let last = 0;
worker.on('message', n => {
	if (n !== last + 1) {
		console.error('the worker says ' + n + ' after ' + last);
		process.exit(1);
	}
	last = n;
	console.log('tick ' + n + ' -');
	worker.postMessage(n);
});
worker.postMessage(0);
net.createServer(socket => {
	socket.on('data', data => socket.write(data));
	socket.on('error', error => console.error(String(error)));
}).listen(7000, '0.0.0.0');
