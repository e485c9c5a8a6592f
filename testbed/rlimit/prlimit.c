/*
 * A library to preload into criu on machines where root lacks CAP_SYS_RESOURCE.
 *
 * CRIU reads the limits of each process it dumps with prlimit(2). The kernel
 * refuses that for a process of another uid unless the caller has
 * CAP_SYS_RESOURCE. The same numbers stand in /proc/PID/limits, which root may
 * read; this library answers a refused query from there. Setting a limit is
 * left to the kernel.
 *
 * CRIU makes the call through syscall(3), so that is what is interposed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* The value columns of /proc/PID/limits begin behind a name of fixed width (fs/proc/base.c). */
#define NAME_WIDTH 26

static const char *const limit_names[] = {
	[RLIMIT_CPU] = "Max cpu time",
	[RLIMIT_FSIZE] = "Max file size",
	[RLIMIT_DATA] = "Max data size",
	[RLIMIT_STACK] = "Max stack size",
	[RLIMIT_CORE] = "Max core file size",
	[RLIMIT_RSS] = "Max resident set",
	[RLIMIT_NPROC] = "Max processes",
	[RLIMIT_NOFILE] = "Max open files",
	[RLIMIT_MEMLOCK] = "Max locked memory",
	[RLIMIT_AS] = "Max address space",
	[RLIMIT_LOCKS] = "Max file locks",
	[RLIMIT_SIGPENDING] = "Max pending signals",
	[RLIMIT_MSGQUEUE] = "Max msgqueue size",
	[RLIMIT_NICE] = "Max nice priority",
	[RLIMIT_RTPRIO] = "Max realtime priority",
	[RLIMIT_RTTIME] = "Max realtime timeout",
};

#define LIMITS (sizeof(limit_names) / sizeof(limit_names[0]))

typedef long (*syscall_fn)(long, ...);

/* What criu starts must not inherit the library. */
__attribute__((constructor)) static void forget_preload(void)
{
	unsetenv("LD_PRELOAD");
}

static rlim_t parse_value(const char *text)
{
	return strcmp(text, "unlimited") == 0 ? RLIM_INFINITY : strtoull(text, NULL, 10);
}

/* Takes the line's values if it is about the named limit. */
static int parse_line(const char *line, const char *name, struct rlimit *out)
{
	char soft[32], hard[32];
	size_t len = strlen(name);

	if (strncmp(line, name, len) != 0 || line[len] != ' ' || strlen(line) <= NAME_WIDTH)
		return 0;
	if (sscanf(line + NAME_WIDTH, "%31s %31s", soft, hard) != 2)
		return 0;
	out->rlim_cur = parse_value(soft);
	out->rlim_max = parse_value(hard);
	return 1;
}

static int limit_from_proc(int pid, const char *name, struct rlimit *out)
{
	char path[64], line[256];
	int found = 0;
	FILE *limits;

	snprintf(path, sizeof(path), "/proc/%d/limits", pid);
	limits = fopen(path, "re");
	if (!limits)
		return 0;
	while (!found && fgets(line, sizeof(line), limits))
		found = parse_line(line, name, out);
	fclose(limits);
	return found;
}

static int is_refused_query(long number, const long *arg)
{
	return number == SYS_prlimit64 && errno == EPERM && arg[2] == 0 && arg[3] != 0 &&
	       (unsigned long)arg[1] < LIMITS;
}

long syscall(long number, ...)
{
	static syscall_fn next;
	long arg[6], ret;
	va_list list;

	va_start(list, number);
	for (int i = 0; i < 6; i++)
		arg[i] = va_arg(list, long);
	va_end(list);

	if (!next)
		next = (syscall_fn)dlsym(RTLD_NEXT, "syscall");
	ret = next(number, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
	if (ret != -1 || !is_refused_query(number, arg))
		return ret;
	if (limit_from_proc((int)arg[0], limit_names[arg[1]], (struct rlimit *)arg[3]))
		return 0;
	errno = EPERM;
	return -1;
}
