/* nats_server.c - see nats_server.h. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/nats_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define POLL_US 5000
#define POLLS 4000 /* 20 s on an idle machine */

/* Below the ports that the system gives to who connects: nobody takes it in between. */
static uint16_t free_port(void)
{
    for (int i = 0; i < 1000; i++) {
        uint16_t port = (uint16_t)(20000 + (getpid() * 7 + i * 131 + rand()) % 12000);
        struct sockaddr_in address = {.sin_family = AF_INET,
                .sin_port = htons(port),
                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        int rc = bind(fd, (struct sockaddr *)&address, sizeof address);
        close(fd);
        if (rc == 0)
            return port;
    }
    fail_msg("no free port");
    return 0;
}

static int accepts(uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
            .sin_port = htons(port),
            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char byte;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int is_up = connect(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
            recv(fd, &byte, 1, 0) == 1;
    close(fd);
    return is_up;
}

void nats_server_start(nats_server *server)
{
    char port[16], path[128];
    if (server->folder[0] == 0) {
        snprintf(server->folder, sizeof server->folder, "/tmp/znl_nats_XXXXXX");
        assert_non_null(mkdtemp(server->folder));
        server->port = free_port();
        snprintf(
                server->url, sizeof server->url, "nats://127.0.0.1:%u", (unsigned)server->port);
    }
    snprintf(port, sizeof port, "%u", (unsigned)server->port);
    snprintf(path, sizeof path, "%s/nats.conf", server->folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(server->config, file);
    fclose(file);
    pid_t parent = getpid();
    server->pid = fork();
    assert_true(server->pid >= 0);
    if (server->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int fd = open("/dev/null", O_RDWR);
        dup2(fd, 1);
        dup2(fd, 2);
        if (getppid() == parent)
            execlp("nats-server", "nats-server", "-a", "127.0.0.1", "-p", port, "-c", path,
                    (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < POLLS && !accepts(server->port); i++) {
        if (waitpid(server->pid, NULL, WNOHANG) != 0)
            fail_msg("nats-server did not start");
        usleep(POLL_US);
    }
    assert_true(accepts(server->port));
}

void nats_server_kill(nats_server *server)
{
    if (server->pid == 0)
        return;
    kill(server->pid, SIGKILL);
    waitpid(server->pid, NULL, 0);
    server->pid = 0;
}

void nats_server_remove(nats_server *server)
{
    char path[128];
    nats_server_kill(server);
    snprintf(path, sizeof path, "%s/nats.conf", server->folder);
    unlink(path);
    rmdir(server->folder);
    server->folder[0] = 0;
}
