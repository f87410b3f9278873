/* Loaded into a process before libc: it notes each change of a file below $CRASH_ROOT in the log
 * $CRASH_LOG, with what was written, in the one order in which all processes made them.
 *
 * A record is a line "OPERATION\tPATH\tOTHER PATH\tOFFSET\tLENGTH\n" and LENGTH bytes of content.
 *
 * $CRASH_FAULT = "OPERATION PART N ERRNO COUNT" has the N-th operation of this kind fail, of those
 * of a process whose path contains PART, and as many after it as COUNT says. The operation "change"
 * is any. With ERRNO 0 the process stops there instead (SIGSTOP), like a laptop that sleeps: when it
 * is continued, its clock is COUNT seconds ahead. With ERRNO -1 only the clock changes.
 * $CRASH_CLOCK is added to the time of day, in seconds. $CRASH_BOOT is a file with the name of the
 * boot, by which a process knows its machine.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static char root[PATH_MAX], log_file[PATH_MAX];
static char fault_kind[32], fault_part[256];
static long fault_n, fault_errno, fault_count, matched, clock_shift;

/* A forked child calls it, too, once it has set its own variables. */
__attribute__((constructor)) void crash_watch(void) {
    const char *folder = getenv("CRASH_ROOT"), *log = getenv("CRASH_LOG");
    const char *fault = getenv("CRASH_FAULT"), *shift = getenv("CRASH_CLOCK");
    snprintf(root, sizeof root, "%s", folder ? folder : "");
    snprintf(log_file, sizeof log_file, "%s", log ? log : "");
    matched = fault_n = 0;
    if (fault)
        sscanf(fault, "%31s %255s %ld %ld %ld", fault_kind, fault_part, &fault_n, &fault_errno,
               &fault_count);
    clock_shift = shift ? atol(shift) : 0;
}

static int is_watched(const char *path) {
    size_t n = strlen(root);
    return n && !strncmp(path, root, n) && (path[n] == '/' || !path[n]);
}

/* The absolute path that `path` means below the open folder `at`. */
static const char *absolute(int at, const char *path, char *out) {
    char base[PATH_MAX] = "";
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
        return out;
    }
    if (at == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) base[0] = 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t n = readlink(link, base, sizeof base - 1);
        base[n > 0 ? n : 0] = 0;
    }
    snprintf(out, PATH_MAX, "%s/%s", base, path);
    return out;
}

/* The path of an open file, NULL where it is not watched or has no name any more. */
static const char *path_of(int fd, char *out) {
    struct stat about;
    char link[64];
    if (!root[0] || fstat(fd, &about) || !about.st_nlink) return NULL;
    if (!S_ISREG(about.st_mode) && !S_ISDIR(about.st_mode)) return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, PATH_MAX - 1);
    out[n > 0 ? n : 0] = 0;
    return is_watched(out) ? out : NULL;
}

/* Whether this operation shall fail; errno then says why. */
static int fails(const char *kind, const char *path) {
    if (!fault_n || !strstr(path, fault_part)) return 0;
    if (strcmp(fault_kind, "change") && strcmp(fault_kind, kind)) return 0;
    long n = __atomic_add_fetch(&matched, 1, __ATOMIC_SEQ_CST);
    if (fault_errno <= 0 && n == fault_n) {
        if (!fault_errno) {
            sleep(2); /* what other threads have under way may end */
            kill(getpid(), SIGSTOP);
        }
        clock_shift += fault_count;
    }
    if (fault_errno <= 0 || n < fault_n || n >= fault_n + fault_count) return 0;
    errno = fault_errno;
    return 1;
}

/* One operation at a time in all processes, from `begin` to `end`. */
static int begin(void) {
    int saved = errno;
    int log = REAL(open)(log_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (log >= 0) flock(log, LOCK_EX);
    errno = saved;
    return log;
}

static void end(int log, int worked, const char *kind, const char *path, const char *other,
                long offset, const struct iovec *parts, int count, size_t length) {
    int saved = errno;
    if (log < 0) return;
    if (worked) {
        char line[2 * PATH_MAX + 64];
        int n = snprintf(line, sizeof line, "%s\t%s\t%s\t%ld\t%zu\n", kind, path, other, offset,
                         length);
        if (REAL(write)(log, line, n) != n) abort();
        for (int i = 0; i < count && length; i++) {
            size_t take = parts[i].iov_len < length ? parts[i].iov_len : length;
            if (REAL(write)(log, parts[i].iov_base, take) != (ssize_t)take) abort();
            length -= take;
        }
    }
    close(log);
    errno = saved;
}

/* ---- files by name ---- */

static int open_any(int at, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    if (!strcmp(path, "/proc/sys/kernel/random/boot_id") && getenv("CRASH_BOOT"))
        path = getenv("CRASH_BOOT");
    int changes = flags & (O_CREAT | O_TRUNC);
    if (!root[0] || !changes || !is_watched(absolute(at, path, full)))
        return REAL(openat)(at, path, flags, mode);
    struct stat about;
    int log = begin(), is_new = stat(full, &about) != 0;
    const char *kind = is_new ? "create" : "truncate";
    int is_change = is_new || ((flags & O_TRUNC) && about.st_size);
    int fd = is_change && fails(kind, full) ? -1 : REAL(openat)(at, path, flags, mode);
    end(log, is_change && fd >= 0, kind, full, "", 0, NULL, 0, 0);
    return fd;
}

#define MODE mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, int); va_end(a); }

int open(const char *path, int flags, ...) { MODE return open_any(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return open_any(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE return open_any(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE return open_any(at, path, flags, mode); }

#define BY_NAME(kind, at, path, call) do { \
    char full[PATH_MAX]; \
    if (!root[0] || !is_watched(absolute(at, path, full))) return call; \
    int log = begin(), result = fails(kind, full) ? -1 : call; \
    end(log, !result, kind, full, "", 0, NULL, 0, 0); \
    return result; } while (0)

int unlink(const char *path) { BY_NAME("unlink", AT_FDCWD, path, REAL(unlink)(path)); }
int rmdir(const char *path) { BY_NAME("rmdir", AT_FDCWD, path, REAL(rmdir)(path)); }
int mkdir(const char *path, mode_t mode) { BY_NAME("mkdir", AT_FDCWD, path, REAL(mkdir)(path, mode)); }
int mkdirat(int at, const char *path, mode_t mode) { BY_NAME("mkdir", at, path, REAL(mkdirat)(at, path, mode)); }
int unlinkat(int at, const char *path, int flags) {
    BY_NAME(flags & AT_REMOVEDIR ? "rmdir" : "unlink", at, path, REAL(unlinkat)(at, path, flags));
}

static int rename_any(int at, const char *from, int to_at, const char *to) {
    char old[PATH_MAX], new[PATH_MAX];
    absolute(at, from, old), absolute(to_at, to, new);
    if (!is_watched(old) && !is_watched(new)) return REAL(renameat)(at, from, to_at, to);
    int log = begin(), result = fails("rename", new) ? -1 : REAL(renameat)(at, from, to_at, to);
    end(log, !result, "rename", old, new, 0, NULL, 0, 0);
    return result;
}

int rename(const char *from, const char *to) { return rename_any(AT_FDCWD, from, AT_FDCWD, to); }
int renameat(int at, const char *from, int to_at, const char *to) { return rename_any(at, from, to_at, to); }

/* ---- open files ---- */

static ssize_t write_any(int fd, const struct iovec *parts, int count, off_t at) {
    char path[PATH_MAX];
    int here = at < 0;
    if (!path_of(fd, path)) return here ? REAL(writev)(fd, parts, count) : REAL(pwritev)(fd, parts, count, at);
    int log = begin();
    ssize_t n = -1;
    if (!fails("write", path))
        n = here ? REAL(writev)(fd, parts, count) : REAL(pwritev)(fd, parts, count, at);
    if (here && n > 0) at = lseek(fd, 0, SEEK_CUR) - n;
    end(log, n > 0, "write", path, "", at, parts, count, n > 0 ? n : 0);
    return n;
}

ssize_t write(int fd, const void *data, size_t n) {
    struct iovec one = {(void *)data, n};
    return write_any(fd, &one, 1, -1);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    struct iovec one = {(void *)data, n};
    return write_any(fd, &one, 1, at);
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) { return pwrite(fd, data, n, at); }
ssize_t writev(int fd, const struct iovec *parts, int count) { return write_any(fd, parts, count, -1); }

#define BY_FD(kind, fd, at, call) do { \
    char path[PATH_MAX]; \
    if (!path_of(fd, path)) return call; \
    int log = begin(), result = fails(kind, path) ? -1 : call; \
    end(log, !result, kind, path, "", at, NULL, 0, 0); \
    return result; } while (0)

int fsync(int fd) { BY_FD("fsync", fd, 0, REAL(fsync)(fd)); }
int fdatasync(int fd) { BY_FD("fsync", fd, 0, REAL(fdatasync)(fd)); }
int ftruncate(int fd, off_t at) { BY_FD("truncate", fd, at, REAL(ftruncate)(fd, at)); }
int ftruncate64(int fd, off64_t at) { BY_FD("truncate", fd, at, REAL(ftruncate)(fd, at)); }

static int truncate_any(const char *path, off_t at) {
    char full[PATH_MAX];
    if (!root[0] || !is_watched(absolute(AT_FDCWD, path, full))) return REAL(truncate)(path, at);
    int log = begin(), result = fails("truncate", full) ? -1 : REAL(truncate)(path, at);
    end(log, !result, "truncate", full, "", at, NULL, 0, 0);
    return result;
}
int truncate(const char *path, off_t at) { return truncate_any(path, at); }
int truncate64(const char *path, off64_t at) { return truncate_any(path, at); }

/* Python copies files without these then: by read and write. */
ssize_t sendfile(int out, int in, off_t *at, size_t n) { return errno = ENOTSOCK, -1; }
ssize_t sendfile64(int out, int in, off64_t *at, size_t n) { return errno = ENOTSOCK, -1; }
ssize_t copy_file_range(int in, off64_t *a, int out, off64_t *b, size_t n, unsigned f) { return errno = ENOSYS, -1; }

/* ---- the clock ---- */

int clock_gettime(clockid_t which, struct timespec *now) {
    int result = REAL(clock_gettime)(which, now);
    if (!result && which == CLOCK_REALTIME) now->tv_sec += clock_shift;
    return result;
}
