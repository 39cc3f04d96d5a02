# The way from the boot loader's 32-bit protected mode to the first Rust function.
#
# In:  eax = the loader's magic number, ebx = physical address of its information (multiboot 1, section 3.2;
#      multiboot 2, section 3.3); paging off, interrupts off, flat segments, no stack.
# Out: oxen_entry64(magic, information, physical address of the image, time stamp at entry), never to return.
#
# Until paging is on, the code runs at whatever physical address the loader chose: it adds `ebp`, the address of the
# image, to the offsets that the linker script computes.

.section .multiboot, "ax"

.balign 8
multiboot2_header:
    .long 0xe85250d6                    # magic
    .long 0                             # i386
    .long multiboot2_end - multiboot2_header
    .long -(0xe85250d6 + 0 + (multiboot2_end - multiboot2_header))
    # Modules on page boundaries: dom0 keeps the frames of its initrd.
    .balign 8
    .word 6, 0
    .long 8
    # The console may be text.
    .balign 8
    .word 4, 1
    .long 12
    .long 2
    # Or a frame buffer, any size.
    .balign 8
    .word 5, 1
    .long 20
    .long 0, 0, 32
    # Anywhere below 4 GiB, in units that the early page tables can map; as low as possible.
    .balign 8
    .word 10, 1
    .long 24
    .long 0x200000
    .long 0xffffffff
    .long 0x200000
    .long 1
    # End.
    .balign 8
    .word 0, 0
    .long 8
multiboot2_end:

.balign 4
multiboot1_header:
    .long 0x1badb002                    # magic
    .long 0x00000003                    # modules on page boundaries; memory map wanted
    .long -(0x1badb002 + 0x00000003)

.section .text.boot, "ax"
.code32

.global oxen_entry32
.type oxen_entry32, @function
oxen_entry32:
    cld
    # A stack of one word: the first word of the loader's information, put back afterwards.
    mov (%ebx), %esi
    lea 4(%ebx), %esp
    call oxen_entry32_here
.global oxen_entry32_here
oxen_entry32_here:
    pop %ebp
    mov %esi, (%ebx)
    sub $oxen_entry32_offset, %ebp      # ebp = where the image is

    mov %eax, %edi                      # the loader's magic
    mov %ebx, %esi                      # the loader's information

    # Long mode and no-execute exist on every CPU that Oxen supports; say so where they do not.
    mov $0x80000000, %eax
    cpuid
    cmp $0x80000001, %eax
    jb no_long_mode
    mov $0x80000001, %eax
    cpuid
    and $0x20100000, %edx
    cmp $0x20100000, %edx
    jne no_long_mode

    rdtsc
    mov %eax, %esp                      # time stamp, kept in esp:ebx until there is a stack
    mov %edx, %ebx

    # Level 4: slot 0 maps the first 4 GiB onto themselves, slot 257 the image at its linked address.
    lea boot_l3_low_offset+3(%ebp), %eax
    mov %eax, boot_l4_offset(%ebp)
    lea boot_l3_image_offset+3(%ebp), %eax
    mov %eax, boot_l4_offset+257*8(%ebp)
    lea boot_l2_image_offset+3(%ebp), %eax
    mov %eax, boot_l3_image_offset(%ebp)
    # Level 3 of the low 4 GiB: four tables.
    lea boot_l2_low_offset+3(%ebp), %eax
    mov %eax, boot_l3_low_offset(%ebp)
    add $0x1000, %eax
    mov %eax, boot_l3_low_offset+8(%ebp)
    add $0x1000, %eax
    mov %eax, boot_l3_low_offset+16(%ebp)
    add $0x1000, %eax
    mov %eax, boot_l3_low_offset+24(%ebp)
    # Level 2 of the low 4 GiB: 2048 pages of 2 MiB.
    lea boot_l2_low_offset(%ebp), %edx
    mov $0x83, %eax
    mov $2048, %ecx
1:  mov %eax, (%edx)
    add $8, %edx
    add $0x200000, %eax
    loop 1b
    # Level 2 of the image: 16 MiB.
    lea boot_l2_image_offset(%ebp), %edx
    lea 0x83(%ebp), %eax
    mov $8, %ecx
1:  mov %eax, (%edx)
    add $8, %edx
    add $0x200000, %eax
    loop 1b

    mov %cr4, %eax
    or $0x20, %eax                      # PAE
    mov %eax, %cr4
    lea boot_l4_offset(%ebp), %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx               # EFER: LME, NXE
    rdmsr
    or $0x900, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80010001, %eax                # PG, WP, PE
    and $0x9fffffff, %eax               # caches on: CD, NW clear
    mov %eax, %cr0

    # Compatibility mode now. A descriptor table and a far jump for the 64-bit code segment, both with addresses that
    # only now are known.
    lea boot_gdt_offset(%ebp), %eax
    mov %eax, boot_gdtr_offset+2(%ebp)
    lgdt boot_gdtr_offset(%ebp)
    lea boot_entry64_offset(%ebp), %eax
    mov %eax, boot_far_offset(%ebp)
    ljmp *boot_far_offset(%ebp)

no_long_mode:
    # White on red in the first line of the text screen, and on the first serial port as it stands.
    lea boot_no_long_mode_offset(%ebp), %esi
    mov $0xb8000, %edi
    mov $0x4f, %ah
1:  mov (%esi), %al
    test %al, %al
    jz 2f
    mov %ax, (%edi)
    mov $0x3f8, %dx
    out %al, %dx
    inc %esi
    add $2, %edi
    jmp 1b
2:  hlt
    jmp 2b
.size oxen_entry32, . - oxen_entry32

.code64
.global boot_entry64
.type boot_entry64, @function
boot_entry64:
    # Identity-mapped still. Flat data segments, then up to the linked address.
    xor %eax, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov %eax, %ss
    mov %esp, %eax                      # the time stamp
    mov %ebx, %ecx
    shl $32, %rcx
    or %rax, %rcx
    mov %ebp, %edx
    mov %esi, %esi
    mov %edi, %edi
    movabs $boot_stack_top, %rsp
    xor %ebp, %ebp                      # the end of the chain of frames
    movabs $oxen_entry64, %rax
    call *%rax
    ud2
.size boot_entry64, . - boot_entry64

.section .rodata.boot, "a"
.global boot_no_long_mode
boot_no_long_mode:
    .asciz "Oxen needs a 64-bit CPU with no-execute pages."
.balign 8
.global boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff            # 64-bit code

.section .data.boot, "aw"
.balign 8
.global boot_gdtr
boot_gdtr:
    .word 15
    .long 0
    .long 0
.global boot_far
boot_far:
    .long 0
    .word 8

.section .bss.boot, "aw", @nobits
.balign 4096
.global boot_stack_guard, boot_l4, boot_l3_low, boot_l2_low, boot_l3_image, boot_l2_image
boot_l4:        .skip 4096
boot_l3_low:    .skip 4096
boot_l2_low:    .skip 4096 * 4
boot_l3_image:  .skip 4096
boot_l2_image:  .skip 4096
boot_stack_guard: .skip 4096
boot_stack:     .skip 131072
boot_stack_top:
