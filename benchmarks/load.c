/* A closed loop of HTTP/1.1 requests that checks every response.

   load [-c CONNECTIONS] [-d SECONDS] [-t TIMEOUT_S] [-b] ADDRESS (REQUEST RESPONSE)...

   ADDRESS is a port of 127.0.0.1, or the path of a Unix-domain socket. REQUEST is a file with a
   whole request, head and body; RESPONSE is a file with the body that the response must have. Each
   connection sends the requests in rotation and keeps one in flight. A response must have status
   200 and exactly as many bytes as RESPONSE; with -b, the same bytes. When SECONDS have passed and
   each connection has a response, no request is sent any more, and the program waits for the
   responses that are missing. With 0 seconds, each connection sends one request.

   Prints one line of JSON and exits with 0. If a response is wrong, a connection ends, or a
   response takes longer than TIMEOUT_S, prints one line to stderr and exits with 1. */

#include "load.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { MAX_EVENTS = 64, POLL_MS = 50 };

struct exchange {
    struct content request, response; /* response: the body alone */
};

struct connection {
    int fd;
    const struct exchange *exchange;
    size_t next;          /* index of the next exchange */
    size_t sent;          /* bytes of the request that the kernel has */
    double sent_at;       /* when the request began */
    bool waiting;         /* a response is missing */
    bool polled_for_write;
    char head[HEAD_LIMIT];
    size_t head_size;     /* bytes of the head so far */
    bool in_body;
    size_t body_size;     /* bytes of the body so far */
    long responses;
};

static struct connection *connections;
static struct exchange *exchanges;
static size_t num_connections = 1, num_exchanges;
static size_t num_waiting, num_moved; /* connections: one in flight; at least one response */
static double seconds = 1, timeout_s = 60, started;
static double window_s; /* 0 as long as requests are sent */
static bool compare_bytes;
static int poller;
static struct samples latencies_ms; /* of the responses in the window */
static char buffer[READ_SIZE];

static void fail_at(const struct connection *c, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "connection %ld, response %ld: ", (long)(c - connections), c->responses + 1);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static int open_socket(const char *address) {
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct sockaddr_in tcp = {.sin_family = AF_INET};
    bool is_path = strchr(address, '/') != NULL;
    int on = 1, fd = socket(is_path ? AF_UNIX : AF_INET, SOCK_STREAM, 0);
    strncpy(local.sun_path, address, sizeof local.sun_path - 1);
    tcp.sin_port = htons(atoi(address));
    tcp.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || (is_path ? connect(fd, (struct sockaddr *)&local, sizeof local)
                           : connect(fd, (struct sockaddr *)&tcp, sizeof tcp)))
        fail("cannot connect to %s: %s", address, strerror(errno));
    if (!is_path)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static void poll_for(struct connection *c, bool write, int operation) {
    struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};
    c->polled_for_write = write;
    if (epoll_ctl(poller, operation, c->fd, &event))
        fail_at(c, "epoll_ctl: %s", strerror(errno));
}

static void write_request(struct connection *c) {
    const struct content *request = &c->exchange->request;
    while (c->sent < request->size) {
        ssize_t n = send(c->fd, request->bytes + c->sent, request->size - c->sent, MSG_NOSIGNAL);
        if (n >= 0)
            c->sent += n;
        else if (errno == EAGAIN)
            break;
        else
            return; /* the response, or the end of the connection, is still to be read */
    }
    if (c->polled_for_write != (c->sent < request->size))
        poll_for(c, !c->polled_for_write, EPOLL_CTL_MOD);
}

static void begin_request(struct connection *c) {
    c->exchange = &exchanges[c->next++ % num_exchanges];
    c->sent = c->head_size = c->body_size = 0;
    c->in_body = false;
    c->sent_at = now();
    c->waiting = true;
    num_waiting++;
    write_request(c);
}

static void end_response(struct connection *c) {
    double elapsed = now() - started;
    c->waiting = false;
    num_waiting--;
    num_moved += c->responses++ == 0;
    if (window_s > 0)
        return;
    add_sample(&latencies_ms, (started + elapsed - c->sent_at) * 1e3);
    if (elapsed >= seconds && num_moved == num_connections)
        window_s = elapsed;
    else if (seconds > 0)
        begin_request(c);
}

/* Return the number of bytes that belong to the head. */
static size_t read_head(struct connection *c, const char *bytes, size_t size) {
    size_t before = c->head_size, room = HEAD_LIMIT - 1 - before;
    memcpy(c->head + before, bytes, size < room ? size : room);
    c->head_size += size < room ? size : room;
    c->head[c->head_size] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) {
        if (size >= room)
            fail_at(c, "head longer than %d bytes", HEAD_LIMIT);
        return size;
    }
    size_t head_size = end + 4 - c->head;
    int status = 0;
    sscanf(c->head, "HTTP/1.1 %d", &status);
    if (status != 200)
        fail_at(c, "status %d: %.300s", status, c->head);
    end[2] = 0;
    char *field = strcasestr(c->head, "\r\ncontent-length:");
    if (!field)
        fail_at(c, "no content-length: %.300s", c->head);
    size_t length = strtoull(field + 17, NULL, 10);
    if (length != c->exchange->response.size)
        fail_at(c, "%zu bytes instead of %zu", length, c->exchange->response.size);
    c->in_body = true;
    return head_size - before;
}

static void read_response(struct connection *c) {
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0)
        fail_at(c, "connection ended: %s", n ? strerror(errno) : "closed by the server");
    if (!c->waiting)
        fail_at(c, "%zd bytes that no request asked for", n);
    size_t at = c->in_body ? 0 : read_head(c, buffer, n);
    if (!c->in_body)
        return;
    const struct content *expected = &c->exchange->response;
    size_t size = n - at;
    if (size > expected->size - c->body_size)
        fail_at(c, "%zu bytes after the response", size - (expected->size - c->body_size));
    if (compare_bytes && memcmp(buffer + at, expected->bytes + c->body_size, size))
        fail_at(c, "body differs from the expected one");
    c->body_size += size;
    if (c->body_size < expected->size)
        return;
    if (c->sent < c->exchange->request.size)
        fail_at(c, "response before the end of the request");
    end_response(c);
}

static void check_timeouts(double time) {
    for (size_t i = 0; i < num_connections; i++)
        if (connections[i].waiting && time - connections[i].sent_at > timeout_s)
            fail_at(&connections[i], "none within %g s; %zu of %zu connections wait", timeout_s,
                 num_waiting, num_connections);
}

static void run(void) {
    struct epoll_event events[MAX_EVENTS];
    double checked = started = now();
    for (size_t i = 0; i < num_connections; i++)
        begin_request(&connections[i]);
    while (num_waiting) {
        int n = epoll_wait(poller, events, MAX_EVENTS, POLL_MS);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                write_request(c);
            if (events[i].events & ~EPOLLOUT)
                read_response(c);
        }
        double time = now();
        if (time - checked > POLL_MS * 1e-3)
            check_timeouts(checked = time);
    }
}

static void report(void) {
    long responses = 0, least = connections[0].responses, most = 0;
    double elapsed = now() - started;
    for (size_t i = 0; i < num_connections; i++) {
        responses += connections[i].responses;
        least = connections[i].responses < least ? connections[i].responses : least;
        most = connections[i].responses > most ? connections[i].responses : most;
    }
    sort_samples(&latencies_ms);
    size_t in_window = latencies_ms.size;
    printf("{\"responses\": %ld, \"rate\": %.6g, \"p50_ms\": %.6g, \"p99_ms\": %.6g, \"least\": %ld, "
           "\"most\": %ld, \"cpu_s\": %.6g, \"elapsed_s\": %.6g}\n",
           responses, in_window / window_s, latencies_ms.values[in_window / 2],
           latencies_ms.values[in_window * 99 / 100], least, most, processor_s(), elapsed);
}

int main(int count, char **arguments) {
    for (int option; (option = getopt(count, arguments, "c:d:t:b")) != -1;) {
        if (option == 'c')
            num_connections = strtoul(optarg, NULL, 10);
        else if (option == 'd')
            seconds = atof(optarg);
        else if (option == 't')
            timeout_s = atof(optarg);
        else if (option == 'b')
            compare_bytes = true;
        else
            return 2;
    }
    if (count - optind < 3 || (count - optind) % 2 == 0 || !num_connections)
        fail("usage: load [-c CONNECTIONS] [-d SECONDS] [-t TIMEOUT_S] [-b] "
             "ADDRESS (REQUEST RESPONSE)...");
    num_exchanges = (count - optind) / 2;
    exchanges = allocate(num_exchanges * sizeof *exchanges);
    for (size_t i = 0; i < num_exchanges; i++) {
        exchanges[i].request = map_file(arguments[optind + 1 + 2 * i]);
        exchanges[i].response = map_file(arguments[optind + 2 + 2 * i]);
    }
    poller = epoll_create1(0);
    connections = allocate(num_connections * sizeof *connections);
    for (size_t i = 0; i < num_connections; i++) {
        connections[i].fd = open_socket(arguments[optind]);
        connections[i].next = i;
        poll_for(&connections[i], false, EPOLL_CTL_ADD);
    }
    run();
    report();
    return 0;
}
