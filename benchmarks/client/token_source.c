/* An OpenAI-compatible token source with known timing: what a load tool reports can be held against what was sent.
 *
 *   cc -O2 -o token_source token_source.c && ./token_source --port 8000 --log truth.bin
 *
 * One thread, one epoll. Every request gets its tokens at planned times, counted from the kernel's receive time of the
 * request: the first after --ttft-ms, the others --interval-ms apart. The time right before and right after each write
 * goes to the log with the planned one; all times are CLOCK_REALTIME in nanoseconds. The log is kept in memory and
 * written at SIGTERM or SIGINT; then a line of JSON on stderr says how late the writes were.
 *
 * Log: one record per request, in the order of their arrival: struct head, then `chunks` times struct emission, both in
 * the machine's byte order.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ID_SIZE = 64, READ_SIZE = 1 << 16, MAX_REQUEST = 1 << 26, BURST = 256, EVENTS = 256, SLAB = 1 << 26 };
enum { ABORTED = 1, BLOCKED = 2 };
enum role { ROLE_FIRST, ROLE_EARLY, ROLE_NONE };

typedef int64_t ns_t;

struct emission {
    ns_t planned, before, after;
};

struct head {
    char id[ID_SIZE];
    ns_t arrived;   /* kernel's receive time of the request's last segment */
    ns_t read;      /* when it was read and understood */
    ns_t started;   /* when it left the queue */
    ns_t ended;     /* after the write of the last byte */
    int32_t status; /* of the answer */
    int32_t tokens;
    int32_t chunks;
    int32_t flags;
};

struct record {
    struct head head;
    struct emission *emissions;
    struct record *next;
};

struct stream {
    struct record *record;
    bool chat, usage, every_usage;
    int max_tokens, prompt_tokens, position; /* position: in the heap; -1 while it waits in the queue */
    ns_t due;
    struct conn *conn;
    struct stream *next_queued;
};

struct bytes {
    char *data;
    size_t size, room;
};

struct conn {
    int fd;
    ns_t arrived;
    struct bytes in, out;
    struct stream *stream;
    bool close_after;
};

static struct {
    int port, tokens_per_chunk, max_running, fail_every;
    double ttft_ms, interval_ms, end_ms;
    bool real_time, in_step;
    enum role role;
    const char *log, *model;
} options = {.tokens_per_chunk = 1, .ttft_ms = 50, .interval_ms = 10, .model = "source"};

static int epoll_fd, listen_fd, running;
static long served;
static volatile sig_atomic_t stopping;
static struct stream **heap;
static int heap_size, heap_room;
static struct stream *queue_first, *queue_last;
static struct record *first_record, *last_record;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void *must(void *memory) {
    if (!memory) die("memory");
    return memory;
}

static ns_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* Memory for the log, mapped beforehand so that no page fault falls into a burst of writes. */
static void *log_memory(size_t size) {
    static char *slab;
    static size_t left;
    size = (size + 15) & ~(size_t)15;
    if (left < size) {
        left = size > SLAB ? size : SLAB;
        slab = mmap(NULL, left, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (slab == MAP_FAILED) die("mmap");
    }
    void *taken = slab;
    slab += size;
    left -= size;
    return taken;
}

/* The heap of running streams, the earliest due on top. */

static void place(struct stream *stream, int position) {
    heap[position] = stream;
    stream->position = position;
}

static void sift_up(struct stream *stream, int position) {
    while (position > 0 && heap[(position - 1) / 2]->due > stream->due) {
        place(heap[(position - 1) / 2], position);
        position = (position - 1) / 2;
    }
    place(stream, position);
}

static void sift_down(struct stream *stream, int position) {
    for (int child; (child = 2 * position + 1) < heap_size; position = child) {
        if (child + 1 < heap_size && heap[child + 1]->due < heap[child]->due) child++;
        if (heap[child]->due >= stream->due) break;
        place(heap[child], position);
    }
    place(stream, position);
}

static void heap_push(struct stream *stream) {
    if (heap_size == heap_room) {
        heap_room = heap_room ? heap_room * 2 : 4096;
        heap = must(realloc(heap, heap_room * sizeof *heap));
    }
    sift_up(stream, heap_size++);
}

static void heap_remove(struct stream *stream) {
    int position = stream->position;
    struct stream *moved = heap[--heap_size];
    stream->position = -1;
    if (moved == stream) return;
    sift_down(moved, position);
    sift_up(moved, moved->position);
}

/* Output. */

static void append(struct bytes *bytes, const char *data, size_t size) {
    if (bytes->size + size + 1 > bytes->room) {
        bytes->room = (bytes->size + size + 1) * 2;
        bytes->data = must(realloc(bytes->data, bytes->room));
    }
    memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
    bytes->data[bytes->size] = 0;
}

static void watch(struct conn *conn, uint32_t events, int operation) {
    struct epoll_event event = {.events = events, .data.ptr = conn};
    if (epoll_ctl(epoll_fd, operation, conn->fd, &event) < 0) die("epoll_ctl");
}

/* Sends what the socket takes and keeps the rest for when it takes more. An error shows up as the end of the input. */
static void send_bytes(struct conn *conn, const char *data, size_t size) {
    ssize_t sent = conn->out.size ? 0 : send(conn->fd, data, size, MSG_NOSIGNAL);
    if (sent < 0) sent = errno == EAGAIN ? 0 : (ssize_t)size;
    if ((size_t)sent == size) return;
    if (conn->stream) conn->stream->record->head.flags |= BLOCKED;
    append(&conn->out, data + sent, size - sent);
    watch(conn, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
}

static void flush(struct conn *conn) {
    ssize_t sent = send(conn->fd, conn->out.data, conn->out.size, MSG_NOSIGNAL);
    if (sent < 0) return;
    memmove(conn->out.data, conn->out.data + sent, conn->out.size - sent);
    conn->out.size -= sent;
    if (!conn->out.size) watch(conn, EPOLLIN, EPOLL_CTL_MOD);
}

static void answer(struct conn *conn, int status, const char *reason, const char *body) {
    char text[2048];
    int size = snprintf(text, sizeof text,
                        "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", status, reason,
                        strlen(body), body);
    send_bytes(conn, text, size);
}

/* Events of a stream: each is a chunk of its own, as vLLM sends them, whether or not they share a write. */

struct output {
    char text[8192];
    int size;
};

__attribute__((format(printf, 2, 3))) static void event(struct output *out, const char *format, ...) {
    char data[4096];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(data, sizeof data, format, arguments);
    va_end(arguments);
    out->size +=
        snprintf(out->text + out->size, sizeof out->text - out->size, "%x\r\ndata: %s\n\n\r\n", size + 8, data);
}

static const char *usage(const struct stream *stream, char *text, size_t room) {
    int done = stream->record->head.tokens;
    snprintf(text, room, ",\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%d,\"completion_tokens\":%d}",
             stream->prompt_tokens, stream->prompt_tokens + done, done);
    return text;
}

static void choice_event(struct output *out, const struct stream *stream, const char *choice, bool last) {
    char text[128] = "";
    if (stream->every_usage) usage(stream, text, sizeof text);
    event(out,
          "{\"id\":\"%s\",\"object\":\"%s\",\"created\":1700000000,\"model\":\"%s\",\"choices\":[{\"index\":0,%s,"
          "\"logprobs\":null,\"finish_reason\":%s}]%s}",
          stream->record->head.id, stream->chat ? "chat.completion.chunk" : "text_completion", options.model, choice,
          last ? "\"length\"" : "null", text);
}

static void role_event(struct output *out, const struct stream *stream) {
    choice_event(out, stream, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}", false);
}

static void token_event(struct output *out, const struct stream *stream, int tokens, bool last) {
    char choice[1024];
    int size = sprintf(choice, stream->chat ? "\"delta\":{\"content\":\"" : "\"text\":\"");
    for (int token = 0; token < tokens; token++) size += sprintf(choice + size, " the");
    sprintf(choice + size, stream->chat ? "\"}" : "\"");
    choice_event(out, stream, choice, last);
}

static void final_events(struct output *out, const struct stream *stream) {
    char text[128];
    if (stream->usage)
        event(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":1700000000,\"model\":\"%s\",\"choices\":[]%s}",
              stream->record->head.id, stream->chat ? "chat.completion.chunk" : "text_completion", options.model,
              usage(stream, text, sizeof text));
    event(out, "[DONE]");
    out->size += sprintf(out->text + out->size, "0\r\n\r\n");
}

/* Streams: queued, running, ended. */

/* With --in-step, tokens leave at whole multiples of the interval only: all streams' in one burst. */
static ns_t step_from(ns_t at) {
    ns_t interval = (ns_t)(options.interval_ms * 1e6);
    return options.in_step && interval ? (at + interval - 1) / interval * interval : at;
}

static void start_stream(struct stream *stream, ns_t at) {
    running++;
    stream->record->head.started = at;
    stream->due = step_from(at + (ns_t)(options.ttft_ms * 1e6));
    heap_push(stream);
}

static void start_queued(void) {
    while (queue_first && (!options.max_running || running < options.max_running)) {
        struct stream *stream = queue_first;
        queue_first = stream->next_queued;
        start_stream(stream, now_ns());
    }
}

static void enqueue(struct stream *stream) {
    stream->position = -1;
    stream->next_queued = NULL;
    if (queue_first) queue_last->next_queued = stream;
    else queue_first = stream;
    queue_last = stream;
}

static void dequeue(struct stream *stream) {
    struct stream *before = NULL, *at = queue_first;
    for (; at && at != stream; at = at->next_queued) before = at;
    if (!at) return;
    if (before) before->next_queued = stream->next_queued;
    else queue_first = stream->next_queued;
    if (queue_last == stream) queue_last = before;
}

static void end_stream(struct stream *stream, int flags) {
    stream->record->head.flags |= flags;
    stream->record->head.ended = now_ns();
    stream->conn->stream = NULL;
    if (stream->position >= 0) {
        heap_remove(stream);
        running--;
    } else {
        dequeue(stream);
    }
    free(stream);
    start_queued();
}

static void take_requests(struct conn *conn);

static void finish(struct stream *stream) {
    struct output out = {.size = 0};
    struct conn *conn = stream->conn;
    final_events(&out, stream);
    send_bytes(conn, out.text, out.size);
    end_stream(stream, 0);
    if (conn->close_after) shutdown(conn->fd, SHUT_WR);
    if (conn->in.size) take_requests(conn);
}

static void emit(struct stream *stream) {
    struct output out = {.size = 0};
    struct head *head = &stream->record->head;
    if (head->tokens == stream->max_tokens) {
        finish(stream);
        return;
    }
    struct emission *emission = &stream->record->emissions[head->chunks++];
    int left = stream->max_tokens - head->tokens;
    int tokens = left < options.tokens_per_chunk ? left : options.tokens_per_chunk;
    if (!head->tokens && stream->chat && options.role == ROLE_FIRST) role_event(&out, stream);
    head->tokens += tokens;
    token_event(&out, stream, tokens, tokens == left);
    emission->planned = stream->due;
    emission->before = now_ns();
    send_bytes(stream->conn, out.text, out.size);
    emission->after = now_ns();
    stream->due += (ns_t)((tokens == left ? options.end_ms : options.interval_ms) * 1e6);
    if (tokens == left && !options.end_ms) finish(stream);
    else sift_down(stream, stream->position);
}

/* At most BURST writes, so that a source that cannot keep up still reads requests. */
static void emit_due(void) {
    for (int count = 0; count < BURST && heap_size && heap[0]->due <= now_ns(); count++) emit(heap[0]);
}

/* Requests. */

static struct record *new_record(ns_t arrived, int chunks) {
    struct record *record = log_memory(sizeof *record);
    memset(record, 0, sizeof *record);
    record->emissions = log_memory(chunks * sizeof *record->emissions);
    record->head.arrived = arrived;
    record->head.read = now_ns();
    *(first_record ? &last_record->next : &first_record) = record;
    return last_record = record;
}

/* A header's value: empty where it is missing. */
static void header(const char *head, const char *name, char *value, size_t room) {
    char key[64];
    snprintf(key, sizeof key, "\r\n%s:", name);
    const char *found = strcasestr(head, key);
    value[0] = 0;
    if (!found) return;
    found += strlen(key);
    found += strspn(found, " \t");
    size_t size = strcspn(found, "\r\n");
    snprintf(value, room, "%.*s", (int)(size < room ? size : room - 1), found);
}

/* Where the value of a key begins in a JSON text. Quotes within strings are escaped, so a prompt cannot pretend. */
static const char *json_value(const char *body, const char *name) {
    char key[64];
    snprintf(key, sizeof key, "\"%s\"", name);
    for (const char *found = body; (found = strstr(found, key));) {
        found += strlen(key);
        const char *value = found + strspn(found, " \t\r\n");
        if (*value == ':') return value + 1 + strspn(value + 1, " \t\r\n");
    }
    return "";
}

static bool json_true(const char *body, const char *name) { return !strncmp(json_value(body, name), "true", 4); }

static int asked_tokens(const char *body) {
    int tokens = atoi(json_value(body, "max_completion_tokens"));
    if (tokens <= 0) tokens = atoi(json_value(body, "max_tokens"));
    return tokens > 0 ? tokens : 16;
}

static int count_words(const char *text) {
    int words = 0;
    for (; *text; text++) words += *text == ' ';
    return words;
}

static struct stream *new_stream(struct conn *conn, const char *path, const char *body) {
    struct stream *stream = must(calloc(1, sizeof *stream));
    stream->conn = conn;
    stream->chat = strstr(path, "/chat/") != NULL;
    stream->usage = json_true(body, "include_usage");
    stream->every_usage = json_true(body, "continuous_usage_stats");
    stream->max_tokens = asked_tokens(body);
    stream->prompt_tokens = count_words(body);
    return stream;
}

static void name_record(struct record *record, const char *head) {
    header(head, "X-Request-Id", record->head.id, ID_SIZE);
    if (!record->head.id[0]) snprintf(record->head.id, ID_SIZE, "%ld", served);
}

static bool refused(struct conn *conn, const char *head) {
    served++;
    if (!options.fail_every || served % options.fail_every) return false;
    struct record *record = new_record(conn->arrived, 0);
    name_record(record, head);
    record->head.status = 503;
    answer(conn, 503, "Service Unavailable", "{\"error\":{\"message\":\"overloaded on purpose\",\"code\":503}}");
    record->head.ended = now_ns();
    return true;
}

static void begin_answer(struct stream *stream) {
    struct output out = {.size = 0};
    out.size = sprintf(out.text, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                                 "Transfer-Encoding: chunked\r\n\r\n");
    if (stream->chat && options.role == ROLE_EARLY) role_event(&out, stream);
    send_bytes(stream->conn, out.text, out.size);
}

/* Not streamed: a readiness check. Answered at once with one token, and not in the log. */
static void answer_whole(struct conn *conn) {
    answer(conn, 200, "OK",
           "{\"id\":\"0\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"source\",\"choices\":[{\"index\":0,"
           "\"message\":{\"role\":\"assistant\",\"content\":\" the\"},\"text\":\" the\",\"finish_reason\":\"length\"}],"
           "\"usage\":{\"prompt_tokens\":1,\"total_tokens\":2,\"completion_tokens\":1}}");
}

static void generate(struct conn *conn, const char *path, const char *head, const char *body) {
    if (!json_true(body, "stream")) {
        answer_whole(conn);
        return;
    }
    if (refused(conn, head)) return;
    struct stream *stream = conn->stream = new_stream(conn, path, body);
    int chunks = (stream->max_tokens + options.tokens_per_chunk - 1) / options.tokens_per_chunk;
    stream->record = new_record(conn->arrived, chunks);
    stream->record->head.status = 200;
    name_record(stream->record, head);
    begin_answer(stream);
    if (options.max_running && running >= options.max_running) enqueue(stream);
    else start_stream(stream, conn->arrived);
}

static void list_models(struct conn *conn) {
    char body[512];
    snprintf(body, sizeof body,
             "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":1700000000,"
             "\"owned_by\":\"token_source\",\"max_model_len\":1048576}]}",
             options.model);
    answer(conn, 200, "OK", body);
}

static void dispatch(struct conn *conn, const char *head, const char *body) {
    char method[16] = "", path[128] = "", connection[32];
    sscanf(head, "%15s %127[^? \r\n]", method, path);
    header(head, "Connection", connection, sizeof connection);
    conn->close_after = !strcasecmp(connection, "close");
    if (!strcmp(method, "POST") && strstr(path, "/completions")) generate(conn, path, head, body);
    else if (!strcmp(path, "/v1/models")) list_models(conn);
    else if (!strcmp(path, "/health")) answer(conn, 200, "OK", "{}");
    else answer(conn, 404, "Not Found", "{\"error\":{\"message\":\"no such path\",\"code\":404}}");
    if (conn->close_after && !conn->stream) shutdown(conn->fd, SHUT_WR);
}

/* The next whole request of the input, if there is one. */
static bool take_request(struct conn *conn) {
    char *end = conn->in.size ? strstr(conn->in.data, "\r\n\r\n") : NULL, length[32];
    if (!end) return false;
    *end = 0; /* headers are searched for in the head only */
    header(conn->in.data, "Content-Length", length, sizeof length);
    char *body = end + 4;
    size_t size = strtoul(length, NULL, 10), whole = body - conn->in.data + size;
    if (size > MAX_REQUEST || conn->in.size < whole) {
        *end = '\r';
        return false;
    }
    char after = body[size];
    body[size] = 0;
    dispatch(conn, conn->in.data, body);
    body[size] = after;
    conn->in.size -= whole;
    memmove(conn->in.data, conn->in.data + whole, conn->in.size + 1);
    return true;
}

static void take_requests(struct conn *conn) {
    while (!conn->stream && take_request(conn)) continue;
}

static void drop(struct conn *conn) {
    if (conn->stream) end_stream(conn->stream, ABORTED);
    close(conn->fd);
    free(conn->in.data);
    free(conn->out.data);
    free(conn);
}

static ns_t stamp_of(struct msghdr *message) {
    for (struct cmsghdr *item = CMSG_FIRSTHDR(message); item; item = CMSG_NXTHDR(message, item)) {
        if (item->cmsg_level != SOL_SOCKET || item->cmsg_type != SO_TIMESTAMPNS) continue;
        struct timespec time;
        memcpy(&time, CMSG_DATA(item), sizeof time);
        return time.tv_sec * 1000000000LL + time.tv_nsec;
    }
    return now_ns();
}

static void on_input(struct conn *conn) {
    static char buffer[READ_SIZE];
    char control[256];
    struct iovec part = {buffer, sizeof buffer};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t size = recvmsg(conn->fd, &message, 0);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
        drop(conn);
        return;
    }
    conn->arrived = stamp_of(&message);
    append(&conn->in, buffer, size);
    take_requests(conn);
}

static void on_connection(void) {
    int on = 1, fd;
    while ((fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *conn = must(calloc(1, sizeof *conn));
        conn->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(conn, EPOLLIN, EPOLL_CTL_ADD);
    }
}

static void on_event(const struct epoll_event *event) {
    struct conn *conn = event->data.ptr;
    if (!conn) {
        on_connection();
        return;
    }
    if (event->events & EPOLLOUT && conn->out.size) flush(conn);
    if (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) on_input(conn);
}

/* Waits for input, at most until the next token is due. */
static void wait_and_read(void) {
    struct epoll_event events[EVENTS];
    ns_t wait = heap_size ? heap[0]->due - now_ns() : 100000000;
    if (wait < 0) wait = 0;
    struct timespec limit = {wait / 1000000000, wait % 1000000000};
    int count = epoll_pwait2(epoll_fd, events, EVENTS, &limit, NULL);
    for (int index = 0; index < count; index++) on_event(&events[index]);
}

/* Start and end. */

static void write_log(void) {
    FILE *file = options.log ? fopen(options.log, "wb") : NULL;
    if (options.log && !file) die(options.log);
    for (struct record *record = first_record; file && record; record = record->next) {
        fwrite(&record->head, sizeof record->head, 1, file);
        fwrite(record->emissions, sizeof *record->emissions, record->head.chunks, file);
    }
    if (file && fclose(file)) die(options.log);
}

static int ascending(const void *left, const void *right) {
    ns_t a = *(const ns_t *)left, b = *(const ns_t *)right;
    return (a > b) - (a < b);
}

static ns_t *lateness(long *count, long *blocked) {
    ns_t *late = NULL;
    for (struct record *record = first_record; record; record = record->next) {
        *blocked += (record->head.flags & BLOCKED) != 0;
        late = must(realloc(late, (*count + record->head.chunks + 1) * sizeof *late));
        for (int chunk = 0; chunk < record->head.chunks; chunk++)
            late[(*count)++] = record->emissions[chunk].before - record->emissions[chunk].planned;
    }
    return late;
}

static void print_lateness(void) {
    long count = 0, blocked = 0;
    ns_t *late = lateness(&count, &blocked);
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    if (count) qsort(late, count, sizeof *late, ascending);
    fprintf(stderr,
            "{\"requests\": %ld, \"chunks\": %ld, \"late_us\": {\"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f}, "
            "\"blocked_requests\": %ld, \"cpu_s\": %.3f}\n",
            served, count, count ? late[count / 2] / 1e3 : 0, count ? late[count * 99 / 100] / 1e3 : 0,
            count ? late[count - 1] / 1e3 : 0, blocked, cpu);
}

static void listen_at(int port) {
    int on = 1;
    struct sockaddr_in address = {AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}, {0}};
    socklen_t size = sizeof address;
    listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listen_fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on); /* accepted sockets inherit it */
    if (bind(listen_fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(listen_fd, 4096) < 0) die("listen");
    getsockname(listen_fd, (struct sockaddr *)&address, &size);
    struct epoll_event event = {.events = EPOLLIN};
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listen_fd, &event) < 0) die("epoll_ctl");
    printf("http://127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
}

static void stop(int number) {
    (void)number;
    stopping = 1;
}

static enum role role_named(const char *name) {
    const char *names[] = {"first", "early", "none"};
    for (int role = ROLE_FIRST; role <= ROLE_NONE; role++)
        if (!strcmp(name, names[role])) return role;
    fprintf(stderr, "--role is first, early or none\n");
    exit(2);
}

static const char *const help =
    "usage: token_source [options]           listens on loopback and prints its URL\n"
    "  --port N               default: a free one\n"
    "  --ttft-ms X            first token, after the request's arrival or its turn in the queue (50)\n"
    "  --interval-ms X        between chunks (10)\n"
    "  --in-step              all streams' chunks in one burst every interval, as an engine's decode steps send them\n"
    "  --end-ms X             usage and [DONE] so long after the last chunk (0: right after it, in a write of their own)\n"
    "  --tokens-per-chunk N   1 to 200 (1)\n"
    "  --role WHEN            chat's role-only chunk: first = in the first token's write, early = at once, none (first)\n"
    "  --max-running N        the rest waits in a queue (0: no limit)\n"
    "  --fail-every N         every Nth request gets a 503 (0: none)\n"
    "  --model NAME           (source)\n"
    "  --real-time            run before everything else on its core, where that is allowed\n"
    "  --log FILE             true times, written at SIGTERM\n";

static const struct option long_options[] = {
    {"port", 1, NULL, 'p'},        {"ttft-ms", 1, NULL, 't'},    {"interval-ms", 1, NULL, 'i'},
    {"role", 1, NULL, 'r'},        {"log", 1, NULL, 'l'},        {"tokens-per-chunk", 1, NULL, 'k'},
    {"max-running", 1, NULL, 'q'}, {"fail-every", 1, NULL, 'f'}, {"model", 1, NULL, 'm'},
    {"real-time", 0, NULL, 'R'},   {"in-step", 0, NULL, 's'},   {"end-ms", 1, NULL, 'e'},
    {"help", 0, NULL, 'h'},        {NULL, 0, NULL, 0}};

static void set_option(int option) {
    switch (option) {
    case 'p': options.port = atoi(optarg); break;
    case 't': options.ttft_ms = atof(optarg); break;
    case 'i': options.interval_ms = atof(optarg); break;
    case 'k': options.tokens_per_chunk = atoi(optarg); break;
    case 'r': options.role = role_named(optarg); break;
    case 'q': options.max_running = atoi(optarg); break;
    case 'f': options.fail_every = atoi(optarg); break;
    case 'm': options.model = optarg; break;
    case 'l': options.log = optarg; break;
    case 'R': options.real_time = true; break;
    case 's': options.in_step = true; break;
    case 'e': options.end_ms = atof(optarg); break;
    default: fputs(help, option == 'h' ? stdout : stderr); exit(option == 'h' ? 0 : 2);
    }
}

static void read_options(int count, char **arguments) {
    for (int option; (option = getopt_long(count, arguments, "", long_options, NULL)) != -1;) set_option(option);
    if (options.tokens_per_chunk < 1 || options.tokens_per_chunk > 200) {
        fputs(help, stderr);
        exit(2);
    }
}

int main(int count, char **arguments) {
    read_options(count, arguments);
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    prctl(PR_SET_TIMERSLACK, 1); /* the default, 50 us, is later than one wants to be */
    struct sched_param priority = {.sched_priority = 1};
    if (options.real_time && sched_setscheduler(0, SCHED_FIFO, &priority) < 0) perror("--real-time");
    log_memory(0);
    listen_at(options.port);
    while (!stopping) {
        wait_and_read();
        emit_due();
    }
    write_log();
    print_lateness();
    return 0;
}
