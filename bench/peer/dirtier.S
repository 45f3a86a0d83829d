# The guest of `bench pause` on the peer's side: a firmware of 64 KiB that does what `tidemark run` does in its workload.
# It writes pages of a working set in random order at a given rate, and a heartbeat, a thousand times a second.
#
#   as --32 -o dirtier.o dirtier.S && ld -m elf_i386 -e image -Ttext 0xffff0000 --oformat binary -o dirtier.bin dirtier.o
#
# Guest memory, little-endian, seen and written from outside through the memory file:
#   0x1000 u32 pages a second (0: none)   0x1004 u32 first page   0x1008 u32 pages of the working set
#   0x2000 u64 heartbeat                  0x2008 u64 pages written
#
# Everything that must survive a move lies in registers or in guest memory; this image is the same on both sides.

    .intel_syntax noprefix
    .set APIC, 0xfee00000
    .set RATE, 0x1000
    .set FIRST, 0x1004
    .set PAGES, 0x1008
    .set BEAT, 0x2000
    .set WRITTEN, 0x2008
    .set STACK, 0x4000
    .set NANOSECONDS, 10000000

    .code16
    .globl image
image:
    cli
    .byte 0x66                  # a base of 32 bits
    lgdt cs:[gdt_pointer - image]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea            # far jump to 32-bit code
    .long protected
    .word 8

    .code32
protected:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, STACK
    lidt idt_pointer

    # The local APIC counts nanoseconds of the machine: how many ticks of the time stamp counter are 10 ms?
    mov dword ptr [APIC + 0xf0], 0x1ff
    mov dword ptr [APIC + 0x3e0], 0xb
    mov dword ptr [APIC + 0x320], 0x10020
    mov dword ptr [APIC + 0x380], 0xffffffff
    rdtsc
    mov ecx, eax
calibrate:
    mov eax, 0xffffffff
    sub eax, [APIC + 0x390]
    cmp eax, NANOSECONDS
    jb calibrate
    rdtsc
    sub eax, ecx
    mov ecx, eax                # ecx: ticks in 10 ms

    # Ticks a page, in ebx; 0 when no page is to be written.
    xor ebx, ebx
    cmp dword ptr [RATE], 0
    je rate_known
    mov edx, 100
    mul edx
    div dword ptr [RATE]
    mov ebx, eax
rate_known:
    lea ecx, [ecx + ecx * 4]
    add ecx, ecx                # ecx: ticks in 100 ms
    mov dword ptr [APIC + 0x320], 0x20020
    mov dword ptr [APIC + 0x380], 1000000
    mov ebp, 0x2545f491         # random
    rdtsc
    mov esi, eax                # edi:esi: when the next page is due
    mov edi, edx
    sti

beat:
    add dword ptr [BEAT], 1
    adc dword ptr [BEAT + 4], 0
    test ebx, ebx
    jz rest
due:
    rdtsc
    sub eax, esi
    sbb edx, edi
    js rest
    jnz late
    cmp eax, ecx
    jbe write
late:                           # at most 100 ms of writes are made up for, as in our workload
    rdtsc
    sub eax, ecx
    sbb edx, 0
    mov esi, eax
    mov edi, edx
write:
    imul ebp, ebp, 1664525
    add ebp, 1013904223
    mov eax, ebp
    mul dword ptr [PAGES]       # edx: a page of the set
    add edx, [FIRST]
    shl edx, 12
    add dword ptr [edx], 1
    add dword ptr [WRITTEN], 1
    adc dword ptr [WRITTEN + 4], 0
    add esi, ebx
    adc edi, 0
    jmp due
rest:
    hlt
    jmp beat

timer:
    mov dword ptr [APIC + 0xb0], 0
    iretd

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9a000000ffff    # code, flat
    .quad 0x00cf92000000ffff    # data, flat
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt

    .balign 8
idt:
    .fill 0x20, 8, 0
    .word timer - image         # the image lies at 0xffff0000
    .word 8, 0x8e00, 0xffff
idt_pointer:
    .word idt_pointer - idt - 1
    .long idt

    .org 0xfff0
    .code16
    .byte 0xe9                  # reset: near jump to the beginning
    .word image - after_jump
after_jump:
    .org 0x10000
