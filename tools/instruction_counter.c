/* Plugin of qemu's user-mode emulation that counts executed instructions.
 *
 *     cc -O2 -shared -fPIC -o instruction_counter.so instruction_counter.c
 *     qemu-aarch64 -plugin ./instruction_counter.so,out=FILE PROGRAM
 *
 * Every system call getpriority(77, N) of the program appends a line "N COUNT" to FILE: so far executed, by all threads.
 * No program has another use for it: 77 is no kind of priority.
 *
 * Debian ships no header of the plugin interface: what is used of its version 1 is declared here.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t plugin_id;
struct block;
extern size_t qemu_plugin_tb_n_insns(const struct block *);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct block *, int operation, void *target, uint64_t value);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct block *));
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                                     uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));

enum { ADD = 0, GETPRIORITY = 141, MARK = 77 }; /* system call numbers of arm64 */

int qemu_plugin_version = 1;
static uint64_t executed;
static char path[4096];

static void translated(plugin_id id, struct block *block)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD, &executed, qemu_plugin_tb_n_insns(block));
}

static void called(plugin_id id, unsigned cpu, int64_t number, uint64_t which, uint64_t who, uint64_t a3, uint64_t a4,
                   uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)cpu, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != GETPRIORITY || which != MARK)
        return;
    FILE *file = fopen(path, "a");
    if (file != NULL) {
        fprintf(file, "%" PRIu64 " %" PRIu64 "\n", who, executed);
        fclose(file);
    }
}

int qemu_plugin_install(plugin_id id, const void *system, int count, char **arguments)
{
    (void)system;
    for (int index = 0; index < count; index++)
        if (strncmp(arguments[index], "out=", 4) == 0)
            snprintf(path, sizeof path, "%s", arguments[index] + 4);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
