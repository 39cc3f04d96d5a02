# The way of another CPU from real mode to the hypervisor's own page tables.
#
# `oxen_arch` copies what lies between `ap_trampoline` and `ap_trampoline_end` into a page below 1 MiB, fills in the
# parameters and starts one CPU after the other there.
#
# In:  real mode, cs = the page / 16, ip = 0 (Intel SDM volume 3, 9.4.4); nothing else is known.
# Out: entry(stack, root), in 64-bit mode on the first page tables; `entry` is text of the image, which they map.
#
# The stack is taken by an exchange with 0: of two CPUs that come, one gets it, and the other stops, as does one that comes
# when it is no longer waited for.

.section .rodata.boot, "a"
.balign 16
.global ap_trampoline, ap_trampoline_parameters, ap_trampoline_end
.code16
ap_trampoline:
    cli
    cld
    mov %cs, %ax
    mov %ax, %ds
    movzwl %ax, %ebx
    shll $4, %ebx                       # ebx = where the page is
    leal (ap_gdt - ap_trampoline)(%ebx), %eax
    movl %eax, (ap_gdtr - ap_trampoline + 2)
    lgdtl (ap_gdtr - ap_trampoline)
    leal (ap_protected - ap_trampoline)(%ebx), %eax
    movl %eax, (ap_far - ap_trampoline)
    movw $0x08, (ap_far - ap_trampoline + 4)
    movl %cr0, %eax
    orl $0x1, %eax                      # PE
    movl %eax, %cr0
    ljmpl *(ap_far - ap_trampoline)

.code32
ap_protected:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %ss
    mov %cr4, %eax
    or $0x20, %eax                      # PAE
    mov %eax, %cr4
    mov (ap_low_root - ap_trampoline)(%ebx), %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx               # EFER: LME, NXE
    rdmsr
    or $0x900, %eax
    wrmsr
    lea (ap_long - ap_trampoline)(%ebx), %eax
    mov %eax, (ap_far - ap_trampoline)(%ebx)
    movw $0x18, (ap_far - ap_trampoline + 4)(%ebx)
    mov %cr0, %eax
    or $0x80010001, %eax                # PG, WP, PE
    and $0x9fffffff, %eax               # caches on: CD, NW clear
    mov %eax, %cr0
    ljmp *(ap_far - ap_trampoline)(%ebx)

.code64
ap_long:
    mov %ebx, %ebx
    xor %eax, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov %eax, %ss
    xchg %rax, (ap_stack - ap_trampoline)(%rbx)
    test %rax, %rax
    jz 1f
    mov %rax, %rdi
    mov (ap_root - ap_trampoline)(%rbx), %rsi
    jmp *(ap_entry - ap_trampoline)(%rbx)
1:  hlt
    jmp 1b

.balign 8
ap_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            # 32-bit code
    .quad 0x00cf93000000ffff            # data
    .quad 0x00af9b000000ffff            # 64-bit code
ap_gdtr:
    .word 31
    .long 0
ap_far:
    .long 0
    .word 0

# `Parameters` of `metal/trampoline.rs`.
.balign 8
ap_trampoline_parameters:
ap_low_root:
    .quad 0
ap_root:
    .quad 0
ap_entry:
    .quad 0
ap_stack:
    .quad 0
ap_trampoline_end:
