/* HTTP/1.1 requests that arrive at random times, whether or not the server keeps up.

   open_load -r RATE -d SECONDS -l DEADLINE_MS [-w WARM_UP_S] [-s SEED] [-c CONNECTIONS] [-n]
             [-t TIMEOUT_S] PORT (REQUEST LENGTH)...

   PORT is one of 127.0.0.1. REQUEST is a file with a whole request, head and body; LENGTH is the
   number of bytes that the body of its response has if the status is 200. The arrivals are a Poisson
   process: the time between two of them is exponential, with 1 / RATE as its mean. SEED gives the
   times, and which request each arrival sends. An arrival takes the connection that is free for the
   longest time, and opens it if it is closed; without a free one the arrival is dropped. With -n,
   each arrival opens a connection and closes it.

   The head of a request is sent first, the body as the socket takes it. A response that comes before
   the end of the body counts like any other. Latency counts from the time at which the arrival was
   due. Arrivals that are due in the first WARM_UP_S seconds are sent and not counted.

   Prints one line of JSON and exits with 0. If a response is malformed or has another length, prints
   one line to stderr and exits with 1. */

#include "load.h"

#include <arpa/inet.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { MAX_EVENTS = 256, MAX_STARTS = 64, SLICE_SIZE = 1 << 16, POLL_MS = 50, MAX_STATUS = 600 };

struct exchange {
    struct content request;
    size_t head_size;       /* bytes of the head of the request */
    size_t response_length; /* bytes of the body of a response with status 200 */
};

struct connection {
    int fd;                 /* -1: closed */
    struct connection *next_free;
    const struct exchange *exchange;
    double due, started;    /* of the arrival */
    size_t sent;            /* bytes of the request that the kernel has */
    bool connecting, sending, waiting; /* waiting: the response is missing */
    bool counted;           /* the arrival was due after the warm-up */
    char head[HEAD_LIMIT];  /* of the response */
    size_t head_size;
    bool in_body, closes;   /* closes: the connection ends with the response */
    int status;
    size_t body_size, length; /* of the response: bytes so far, bytes in all */
};

static struct exchange *exchanges;
static struct connection *connections, *first_free, *last_free;
static size_t num_connections = 256, num_exchanges, num_busy;
static double rate, seconds, warm_up_s, deadline_ms, timeout_s = 10, started;
static bool new_connections;
static uint64_t random_state;
static struct sockaddr_in server = {.sin_family = AF_INET};
static int poller;
static char buffer[READ_SIZE];

static long offered, dropped, not_connected, ended, timed_out, in_deadline, opened;
static long statuses[MAX_STATUS];
static struct samples accepted_ms, refused_ms, other_ms, slips_ms, gaps_s;

/* Return a number between 0 and 1, which is neither (splitmix64). */
static double random_number(void) {
    uint64_t z = random_state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return (((z ^ (z >> 31)) >> 12) + 0.5) / (1ull << 52);
}

static void add_free(struct connection *c) {
    c->next_free = NULL;
    if (first_free)
        last_free->next_free = c;
    else
        first_free = c;
    last_free = c;
}

static void poll_for(struct connection *c, bool write, int operation) {
    struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event))
        fail("epoll_ctl: %s", strerror(errno));
}

static void close_connection(struct connection *c) {
    close(c->fd);
    c->fd = -1;
    c->connecting = c->sending = false;
}

/* End the exchange on a connection whose response has come or is given up. */
static void end_exchange(struct connection *c) {
    c->waiting = false;
    num_busy--;
    if (new_connections && c->fd >= 0)
        close_connection(c);
    add_free(c);
}

/* Give up the response. */
static void abandon(struct connection *c, long *counter) {
    *counter += c->waiting && c->counted;
    close_connection(c);
    end_exchange(c);
}

static bool open_connection(struct connection *c) {
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0)
        fail("socket: %s", strerror(errno));
    opened++;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS)
        return false;
    c->connecting = true;
    poll_for(c, true, EPOLL_CTL_ADD);
    return true;
}

static void end_sending(struct connection *c) {
    c->sending = false;
    poll_for(c, false, EPOLL_CTL_MOD);
    if (c->waiting)
        return;
    if (c->closes)
        close_connection(c);
    end_exchange(c);
}

/* Send the head, or the next part of the body. */
static void write_request(struct connection *c) {
    const struct exchange *exchange = c->exchange;
    size_t size = exchange->request.size - c->sent;
    if (c->sent < exchange->head_size)
        size = exchange->head_size - c->sent;
    else if (size > SLICE_SIZE)
        size = SLICE_SIZE;
    ssize_t n = send(c->fd, exchange->request.bytes + c->sent, size, MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN)
        return;
    c->closes |= n < 0; /* the response may still be read */
    c->sent = n < 0 ? exchange->request.size : c->sent + n;
    if (c->sent == exchange->request.size)
        end_sending(c);
}

static void finish_connecting(struct connection *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        abandon(c, &not_connected);
        return;
    }
    c->connecting = false;
    write_request(c);
}

/* Begin the arrival that is due at a time after the start. */
static void begin_arrival(double due_s) {
    double time = now(), due = started + due_s;
    bool counted = due_s >= warm_up_s;
    struct exchange *exchange = &exchanges[(size_t)(random_number() * num_exchanges)];
    offered += counted;
    if (counted)
        add_sample(&slips_ms, (time - due) * 1e3);
    struct connection *c = first_free;
    if (!c) {
        dropped += counted;
        return;
    }
    first_free = c->next_free;
    num_busy++;
    c->exchange = exchange;
    c->due = due;
    c->started = time;
    c->counted = counted;
    c->sent = c->head_size = c->body_size = 0;
    c->in_body = c->closes = false;
    c->waiting = c->sending = true;
    if (c->fd >= 0) {
        poll_for(c, true, EPOLL_CTL_MOD);
        write_request(c);
    } else if (!open_connection(c)) {
        abandon(c, &not_connected);
    }
}

static void end_response(struct connection *c) {
    double latency_ms = (now() - c->due) * 1e3;
    if (c->counted) {
        bool refused = c->status == 429 || c->status == 503;
        statuses[c->status]++;
        in_deadline += c->status == 200 && latency_ms <= deadline_ms;
        add_sample(c->status == 200 ? &accepted_ms : refused ? &refused_ms : &other_ms, latency_ms);
    }
    c->waiting = false;
    if (c->closes)
        close_connection(c);
    if (!c->sending || new_connections)
        end_exchange(c);
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
            fail("head longer than %d bytes", HEAD_LIMIT);
        return size;
    }
    size_t head_size = end + 4 - c->head;
    end[2] = 0;
    char *field = strcasestr(c->head, "\r\ncontent-length:");
    if (sscanf(c->head, "HTTP/1.1 %d", &c->status) != 1 || c->status < 200 ||
        c->status >= MAX_STATUS || !field)
        fail("malformed head: %.300s", c->head);
    c->length = strtoull(field + 17, NULL, 10);
    if (c->status == 200 && c->length != c->exchange->response_length)
        fail("%zu bytes instead of %zu", c->length, c->exchange->response_length);
    c->closes |= strcasestr(c->head, "\r\nconnection: close\r\n") != NULL;
    c->in_body = true;
    return head_size - before;
}

static void read_response(struct connection *c) {
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0 && !c->waiting && !c->sending) {
        close_connection(c); /* a free connection, which the next arrival opens again */
        return;
    }
    if (n <= 0) {
        abandon(c, &ended);
        return;
    }
    if (!c->waiting)
        fail("%zd bytes that no request asked for: %.*s", n, (int)(n < 300 ? n : 300), buffer);
    size_t at = c->in_body ? 0 : read_head(c, buffer, n);
    if (!c->in_body)
        return;
    size_t size = n - at;
    if (size > c->length - c->body_size)
        fail("%zu bytes after the response", size - (c->length - c->body_size));
    c->body_size += size;
    if (c->body_size == c->length)
        end_response(c);
}

static void handle(struct connection *c, unsigned events) {
    if (c->fd < 0)
        return; /* closed by an event before this one */
    if (c->connecting) {
        finish_connecting(c);
        return;
    }
    if (events & ~EPOLLOUT)
        read_response(c);
    if (c->fd >= 0 && c->sending && events & EPOLLOUT)
        write_request(c);
}

static void check_timeouts(void) {
    double time = now();
    for (size_t i = 0; i < num_connections; i++) {
        struct connection *c = &connections[i];
        if (c->connecting && (time - c->started) * 1e3 > deadline_ms)
            abandon(c, &not_connected);
        else if ((c->waiting || c->sending) && time - c->due > timeout_s)
            abandon(c, &timed_out);
    }
}

static void run(void) {
    struct epoll_event events[MAX_EVENTS];
    double gap = -log(random_number()) / rate, due = gap, end = warm_up_s + seconds, checked = 0;
    started = now(); /* due, end and checked count from here */
    while (due < end || num_busy) {
        double time = now() - started;
        for (int i = 0; i < MAX_STARTS && due <= time && due < end; i++) {
            add_sample(&gaps_s, gap);
            begin_arrival(due);
            due += gap = -log(random_number()) / rate;
        }
        double wait_s = due < end ? due - (now() - started) : POLL_MS * 1e-3;
        wait_s = wait_s < 0 ? 0 : wait_s > POLL_MS * 1e-3 ? POLL_MS * 1e-3 : wait_s;
        struct timespec wait = {.tv_nsec = wait_s * 1e9};
        int n = epoll_pwait2(poller, events, MAX_EVENTS, &wait, NULL);
        for (int i = 0; i < n; i++)
            handle(events[i].data.ptr, events[i].events);
        time = now() - started;
        if (time - checked > POLL_MS * 1e-3) {
            check_timeouts();
            checked = time;
        }
    }
}

static void print_latencies(const char *name, struct samples *samples, const char *end) {
    size_t n = samples->size;
    sort_samples(samples);
    printf("\"%s\": ", name);
    if (n)
        printf("{\"count\": %zu, \"p50_ms\": %.6g, \"p99_ms\": %.6g, \"max_ms\": %.6g}", n,
               samples->values[n / 2], samples->values[n * 99 / 100], samples->values[n - 1]);
    else
        printf("null");
    printf("%s", end);
}

static void report(void) {
    double elapsed = now() - started, mean = 0, variance = 0;
    for (size_t i = 0; i < gaps_s.size; i++)
        mean += gaps_s.values[i] / gaps_s.size;
    for (size_t i = 0; i < gaps_s.size; i++)
        variance += (gaps_s.values[i] - mean) * (gaps_s.values[i] - mean) / gaps_s.size;
    printf("{\"offered\": %ld, \"in_deadline\": %ld, \"dropped\": %ld, \"not_connected\": %ld, "
           "\"ended\": %ld, \"timed_out\": %ld, \"opened\": %ld, \"statuses\": {",
           offered, in_deadline, dropped, not_connected, ended, timed_out, opened);
    const char *comma = "";
    for (int status = 0; status < MAX_STATUS; status++) {
        if (!statuses[status])
            continue;
        printf("%s\"%d\": %ld", comma, status, statuses[status]);
        comma = ", ";
    }
    printf("}, \"latencies\": {");
    print_latencies("accepted", &accepted_ms, ", ");
    print_latencies("refused", &refused_ms, ", ");
    print_latencies("other", &other_ms, ", ");
    print_latencies("slip", &slips_ms, "}");
    printf(", \"gap_mean_s\": %.6g, \"gap_variance_s2\": %.6g, \"cpu_s\": %.6g, \"elapsed_s\": %.6g}\n",
           mean, variance, processor_s(), elapsed);
}

static struct exchange read_exchange(char **arguments) {
    struct exchange exchange = {map_file(arguments[0]), 0, strtoull(arguments[1], NULL, 10)};
    char *end = memmem(exchange.request.bytes, exchange.request.size, "\r\n\r\n", 4);
    if (!end)
        fail("%s: has no head", arguments[0]);
    exchange.head_size = end + 4 - exchange.request.bytes;
    return exchange;
}

int main(int count, char **arguments) {
    for (int option; (option = getopt(count, arguments, "r:d:l:w:s:c:nt:")) != -1;) {
        if (option == 'r')
            rate = atof(optarg);
        else if (option == 'd')
            seconds = atof(optarg);
        else if (option == 'l')
            deadline_ms = atof(optarg);
        else if (option == 'w')
            warm_up_s = atof(optarg);
        else if (option == 's')
            random_state = strtoull(optarg, NULL, 10);
        else if (option == 'c')
            num_connections = strtoul(optarg, NULL, 10);
        else if (option == 'n')
            new_connections = true;
        else if (option == 't')
            timeout_s = atof(optarg);
        else
            return 2;
    }
    if (count - optind < 3 || (count - optind) % 2 == 0 || rate <= 0 || seconds <= 0)
        fail("usage: open_load -r RATE -d SECONDS -l DEADLINE_MS [-w WARM_UP_S] [-s SEED] "
             "[-c CONNECTIONS] [-n] [-t TIMEOUT_S] PORT (REQUEST LENGTH)...");
    server.sin_port = htons(atoi(arguments[optind]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    num_exchanges = (count - optind) / 2;
    exchanges = allocate(num_exchanges * sizeof *exchanges);
    for (size_t i = 0; i < num_exchanges; i++)
        exchanges[i] = read_exchange(arguments + optind + 1 + 2 * i);
    poller = epoll_create1(0);
    connections = allocate(num_connections * sizeof *connections);
    for (size_t i = 0; i < num_connections; i++) {
        connections[i].fd = -1;
        add_free(&connections[i]);
    }
    run();
    report();
    return 0;
}
