/* socket_path.c - see socket_path.h.
 *
 * The lock file is removed at the end. Who opened it before that holds the lock of a file that has no name:
 * so after locking, the name must still lead to the file that is locked, or it begins again.
 *
 * SPDX-License-Identifier: MIT */
#include "transport/socket_path.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LOCK_SUFFIX ".lock"
#define LOCK_ATTEMPTS 100 /* each is lost to an owner that ended meanwhile */

struct znl_socket_path {
    int lock;
    int is_bound; /* then this is the socket: */
    dev_t device;
    ino_t inode;
    char path[ZNL_SOCKET_PATH_BYTES_MAX + 1];
    char lock_path[ZNL_SOCKET_PATH_BYTES_MAX + sizeof LOCK_SUFFIX];
};

static int error_of(int number)
{
    switch (number) {
    case EWOULDBLOCK:
    case EADDRINUSE:
        return ZNL_E_ADDRESS_IN_USE;
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case ENXIO: /* a socket or a pipe where the lock should be */
    case ELOOP:
    case EPERM:
    case EROFS:
        return ZNL_E_ADDRESS;
    default:
        return znl_err_from_errno(number);
    }
}

int znl_socket_path_read(const char *path, struct sockaddr_un *address)
{
    _Static_assert(sizeof address->sun_path == ZNL_SOCKET_PATH_BYTES_MAX + 1, "of the system");
    size_t size = strlen(path);
    if (size == 0 || size > ZNL_SOCKET_PATH_BYTES_MAX)
        return ZNL_E_ADDRESS;
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, size);
    return 0;
}

/* --- the lock ---------------------------------------------------------------------------------- */

/* ZNL_E_BUSY: the file has lost its name. */
static int try_lock(znl_socket_path *path, mode_t mode)
{
    struct stat locked;
    struct stat named;
    path->lock = open(path->lock_path,
            O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, mode);
    if (path->lock < 0)
        return error_of(errno);
    int err = ZNL_E_BUSY;
    if (flock(path->lock, LOCK_EX | LOCK_NB) != 0 || fstat(path->lock, &locked) != 0)
        err = error_of(errno);
    else if (!S_ISREG(locked.st_mode))
        err = ZNL_E_ADDRESS;
    else if (lstat(path->lock_path, &named) == 0 && named.st_dev == locked.st_dev &&
            named.st_ino == locked.st_ino)
        return 0;
    close(path->lock);
    path->lock = -1;
    return err;
}

static int lock(znl_socket_path *path, mode_t mode)
{
    for (int i = 0; i < LOCK_ATTEMPTS; i++) {
        int err = try_lock(path, mode);
        if (err != ZNL_E_BUSY)
            return err;
    }
    return ZNL_E_ADDRESS_IN_USE;
}

/* --- the socket -------------------------------------------------------------------------------- */

static int new_socket(void)
{
    return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

/* Removes what an owner that was killed has left. It may also be the socket of a program that knows no
 * lock: then connecting to it is not refused. */
static int make_way(const struct sockaddr_un *address)
{
    struct stat there;
    if (lstat(address->sun_path, &there) != 0)
        return errno == ENOENT ? 0 : error_of(errno);
    if (!S_ISSOCK(there.st_mode))
        return ZNL_E_ADDRESS;
    int fd = new_socket();
    if (fd < 0)
        return error_of(errno);
    int number = connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 ? 0
                                                                                     : errno;
    close(fd);
    if (number == 0 || number == EAGAIN || number == EPROTOTYPE)
        return ZNL_E_ADDRESS_IN_USE;
    if (number != ECONNREFUSED && number != ENOENT)
        return error_of(number);
    return unlink(address->sun_path) == 0 || errno == ENOENT ? 0 : error_of(errno);
}

/* Until it listens nobody can connect: the mode is there in time. 0 or an errno. */
static int occupy(znl_socket_path *path, const struct sockaddr_un *address, mode_t mode,
        int backlog, int fd)
{
    struct stat made;
    if (bind(fd, (const struct sockaddr *)address, sizeof *address) != 0)
        return errno;
    if (lstat(path->path, &made) != 0)
        return errno;
    path->is_bound = 1;
    path->device = made.st_dev;
    path->inode = made.st_ino;
    return chmod(path->path, mode) != 0 || listen(fd, backlog) != 0 ? errno : 0;
}

int znl_socket_path_listen(
        znl_socket_path **out, const char *name, uint32_t mode, int backlog, int *fd)
{
    struct sockaddr_un address;
    int made = -1;
    int err = znl_socket_path_read(name, &address);
    if (err != 0)
        return err;
    if (mode > 0777)
        return ZNL_E_INVALID;
    znl_socket_path *path = znl_calloc(1, sizeof *path);
    if (path == NULL)
        return ZNL_E_NOMEM;
    path->lock = -1;
    snprintf(path->path, sizeof path->path, "%s", name);
    snprintf(path->lock_path, sizeof path->lock_path, "%s" LOCK_SUFFIX, name);
    err = lock(path, mode & 0660);
    if (err == 0)
        err = make_way(&address);
    if (err != 0)
        goto fail;
    made = new_socket();
    int number = made < 0 ? errno : occupy(path, &address, mode, backlog, made);
    if (number != 0) {
        err = error_of(number);
        goto fail;
    }
    *fd = made;
    *out = path;
    return 0;
fail:
    if (made >= 0)
        close(made);
    znl_socket_path_free(path);
    return err;
}

const char *znl_socket_path_problem(const char *name)
{
    struct stat there;
    char folder[ZNL_SOCKET_PATH_BYTES_MAX + 1];
    size_t size = strlen(name);
    if (size == 0 || size > ZNL_SOCKET_PATH_BYTES_MAX)
        return "a path of a socket has 1 to 107 bytes";
    if (lstat(name, &there) == 0 && !S_ISSOCK(there.st_mode))
        return "something is there that is no socket";
    memcpy(folder, name, size + 1);
    char *slash = strrchr(folder, '/');
    if (slash == NULL)
        memcpy(folder, ".", 2);
    else
        slash[slash == folder ? 1 : 0] = '\0';
    if (stat(folder, &there) != 0)
        return errno == EACCES ? "no permission to look into its folder"
                               : "its folder does not exist";
    if (!S_ISDIR(there.st_mode))
        return "what should be its folder is none";
    if (access(folder, W_OK | X_OK) != 0)
        return "no permission to write into its folder";
    return "the file or its .lock cannot be used";
}

void znl_socket_path_free(znl_socket_path *path)
{
    struct stat there;
    if (path == NULL)
        return;
    /* Another may have been put there by force. */
    if (path->is_bound && lstat(path->path, &there) == 0 && there.st_dev == path->device &&
            there.st_ino == path->inode)
        unlink(path->path);
    if (path->lock >= 0) {
        unlink(path->lock_path);
        flock(path->lock, LOCK_UN); /* also of a child that has not begun its program yet */
        close(path->lock);
    }
    znl_free(path);
}
