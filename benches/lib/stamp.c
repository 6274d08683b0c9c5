// The command of the benchmarks. Prints what happens, each with the monotonic clock's nanoseconds.
//
//   stamp               start; then a signal each, and SIGTERM ends it
//   stamp --exit        start and end: it ends at once
//   stamp --saw TEXT    that TEXT is in what stdin brings, each time
//   stamp --serve PORT  each connection to the loopback port, answered with 200
//   stamp --orphans N   how long until PID 1 has collected N orphans

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void say(const char *what, long long at) {
    char line[64];
    int length = snprintf(line, sizeof line, "%s %lld\n", what, at);
    if (write(1, line, length) != length) _exit(1);
}

static void saw(const char *text) {
    // Enough for two events of a watch; the text of one is never in the next.
    static char seen[1 << 18];
    size_t length = 0;
    for (;;) {
        ssize_t more = read(0, seen + length, sizeof seen - 1 - length);
        long long at = now();
        if (more <= 0) return;
        length += more;
        seen[length] = 0;
        if (strstr(seen, text)) say("saw", at);
        char *end = strrchr(seen, '\n');
        if (end) {
            length = strlen(end + 1);
            memmove(seen, end + 1, length);
        } else if (length > sizeof seen / 2) {
            length = 0;
        }
    }
}

static void serve(int port) {
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 16)) exit(1);
    say("listening", now());
    for (;;) {
        int client = accept(listener, 0, 0);
        char request[4096];
        if (read(client, request, sizeof request) > 0) {
            say("request", now());
            const char *answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            if (write(client, answer, strlen(answer)) < 0) exit(1);
        }
        close(client);
    }
}

static int children_of_1(void) {
    char list[1 << 16];
    FILE *file = fopen("/proc/1/task/1/children", "r");
    if (!file) exit(1);
    size_t length = fread(list, 1, sizeof list - 1, file);
    fclose(file);
    list[length] = 0;
    int count = 0;
    for (char *word = strtok(list, " "); word; word = strtok(0, " ")) count++;
    return count;
}

static void orphans(int count) {
    long long start = now();
    for (int i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) {
            if (fork() == 0) _exit(0);
            _exit(0);
        }
        waitpid(child, 0, 0);
    }
    while (children_of_1() > 1) usleep(200);
    say("collected", now() - start);
}

int main(int count, char **words) {
    // A wrapper that is killed leaves nothing behind.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (count == 3 && !strcmp(words[1], "--saw")) {
        saw(words[2]);
        return 0;
    }
    if (count == 3 && !strcmp(words[1], "--serve")) serve(atoi(words[2]));
    if (count == 3 && !strcmp(words[1], "--orphans")) {
        orphans(atoi(words[2]));
        return 0;
    }
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, 0);
    say("start", now());
    if (count == 2 && !strcmp(words[1], "--exit")) {
        say("end", now());
        return 0;
    }
    for (;;) {
        int number;
        sigwait(&all, &number);
        say("signal", now());
        if (number == SIGTERM) return 0;
    }
}
