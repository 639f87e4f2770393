/* The least that any client of a streaming server does: one epoll, and one recvmsg with the kernel's stamp per read.
 *
 *   cc -O2 -o floor floor.c && ./floor PORT STREAMS REQUESTS_PER_STREAM TOKENS
 *
 * A closed loop without any analysis: it only looks whether a response has ended, and sends the stream's next request.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 1024, READ_SIZE = 8192 };
static const char END[] = "\r\n0\r\n\r\n";

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int connected(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to)) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    return fd;
}

static void ask(int fd, const char *request, size_t size) {
    if (send(fd, request, size, 0) != (ssize_t)size) fail("send");
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fputs("usage: floor PORT STREAMS REQUESTS_PER_STREAM TOKENS\n", stderr);
        return 2;
    }
    int port = atoi(argv[1]), streams = atoi(argv[2]), per_stream = atoi(argv[3]), under_way = streams;
    char body[256], request[512];
    int body_size = snprintf(body, sizeof body,
                             "{\"model\":\"source\",\"stream\":true,\"max_tokens\":%s,\"stream_options\":{\"include_usage\":true},"
                             "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
                             argv[4]);
    int size = snprintf(request, sizeof request,
                        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                        "Content-Length: %d\r\n\r\n%s",
                        body_size, body);
    int epoll = epoll_create1(0), *left = calloc((size_t)streams + 64, sizeof *left);
    for (int number = 0; number < streams; number++) {
        int fd = connected(port);
        if (fd >= streams + 64) fail("unexpected descriptor");
        left[fd] = per_stream;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
        ask(fd, request, (size_t)size);
    }
    while (under_way > 0) {
        static struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            static char data[READ_SIZE + 1], ancillary[64];
            int fd = events[i].data.fd;
            struct iovec into = {data, READ_SIZE};
            struct msghdr message = {
                .msg_iov = &into, .msg_iovlen = 1, .msg_control = ancillary, .msg_controllen = sizeof ancillary};
            ssize_t got = recvmsg(fd, &message, 0);
            if (got <= 0) fail("recvmsg");
            if (got >= (ssize_t)sizeof END - 1 && !memcmp(data + got - (sizeof END - 1), END, sizeof END - 1)) {
                if (--left[fd] > 0) {
                    ask(fd, request, (size_t)size);
                } else {
                    epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
                    under_way--;
                }
            }
        }
    }
    return 0;
}
