//! What proa holds while the command runs, which may be for weeks: as little as it can, and nothing of what it has let go.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;
use nix::unistd::{SysconfVar, sysconf};

/// How much of the stack below its present end may have been in use: less than the kernel leaves free below a stack
/// (`stack_guard_gap`, 256 pages), so that nothing else lies there.
const STACK: usize = 512 * 1024;

/// Whether what is freed is cleared.
static CLEARS: AtomicBool = AtomicBool::new(false);

/// Has all that is freed from now on cleared: a token passes through buffers of several libraries, and would stay in each of them, for a
/// core dump to show. To be called before a secret is read; nothing else makes up for what it costs to parse a command line that way.
pub fn clear_what_is_freed() {
    CLEARS.store(true, Ordering::Relaxed);
}

fn clears() -> bool {
    CLEARS.load(Ordering::Relaxed)
}

/// The system's allocator, which clears what is freed once that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Clearing;

// SAFETY: memory comes from the system's allocator and goes back to it, as it asks for.
#[expect(unsafe_code, reason = "an allocator is unsafe to write")]
unsafe impl GlobalAlloc for Clearing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        if clears() {
            // SAFETY: the caller owns so many bytes there. No compiler leaves this call out, as it may a plain write
            // (explicit_bzero(3)).
            unsafe { libc::explicit_bzero(start.cast(), layout.size()) };
        }
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(start, layout) };
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !clears() {
            // SAFETY: the caller's promise.
            return unsafe { System.realloc(start, layout, size) };
        }
        // The system would leave a copy behind where it moves.
        // SAFETY: the caller's promise: a size that is not zero and, rounded up to the alignment, no overflow.
        let grown = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: of that layout.
        let moved = unsafe { self.alloc(grown) };
        if !moved.is_null() {
            // SAFETY: both have so many bytes, and they are two allocations.
            unsafe { ptr::copy_nonoverlapping(start, moved, layout.size().min(size)) };
            // SAFETY: the caller's promise; nobody uses it any more.
            unsafe { self.dealloc(start, layout) };
        }
        moved
    }
}

/// Returns to the system what is not in use: freed memory, which the C library keeps; the stack's pages below its present end; and the
/// program's own pages, which come back from the page cache as they are executed and read.
pub fn give_back() {
    trim_heap();
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| usize::try_from(size).ok());
    let Some(page) = page else { return };
    leave_program(page);
    leave_stack(page);
}

/// The C library keeps what is freed for an allocation that will not come.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no library wraps this call")]
fn trim_heap() {
    // SAFETY: takes one integer; thread-safe (malloc_trim(3)).
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries return freed memory on their own.
#[cfg(not(target_env = "gnu"))]
fn trim_heap() {}

/// Never inlined, so that its own frame is the lowest.
#[inline(never)]
#[expect(unsafe_code, reason = "the kernel is told about memory that no value of the language stands for")]
fn leave_stack(page: usize) {
    let here = 0_u8;
    // The page that this frame is on, and the one below for the call itself, stay.
    let end = (ptr::from_ref(&here).addr() & !(page - 1)).saturating_sub(page);
    let start = ptr::without_provenance_mut(end.saturating_sub(STACK));
    // SAFETY: below the frame of a call that takes no other space lies nothing that is read again before it is written; pages that are
    // not mapped are passed over with an error (madvise(2), ENOMEM).
    unsafe { libc::madvise(start, STACK, libc::MADV_DONTNEED) };
}

/// The pages of the program and its libraries that are never written, which are the file's own: only those may go.
#[expect(unsafe_code, reason = "the loader alone knows where the program's segments are")]
fn leave_program(mut page: usize) {
    // SAFETY: the callback has the type that is expected, and the data that it expects.
    unsafe { libc::dl_iterate_phdr(Some(leave_object), (&raw mut page).cast()) };
}

#[expect(unsafe_code, reason = "the loader hands over raw pointers")]
unsafe extern "C" fn leave_object(
    object: *mut libc::dl_phdr_info,
    _: libc::size_t,
    page: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader's pointer is valid during this call (dl_iterate_phdr(3)).
    let object = unsafe { &*object };
    // SAFETY: the caller's is a page's size.
    let page = unsafe { *page.cast::<usize>() };
    if object.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: so many headers lie there, and nobody writes to them.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()) };
    for header in headers {
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            let start = object.dlpi_addr.wrapping_add(header.p_vaddr);
            let (start, size) = (usize::try_from(start), usize::try_from(header.p_memsz));
            if let (Ok(start), Ok(size)) = (start, size) {
                leave_segment(start, start.saturating_add(size), page);
            }
        }
    }
    0
}

/// Its whole pages: those at its ends may be of the next segment too, which is written to.
#[expect(unsafe_code, reason = "the kernel is told about memory that no value of the language stands for")]
fn leave_segment(start: usize, end: usize, page: usize) {
    let (start, end) = (start.next_multiple_of(page), end & !(page - 1));
    if start < end {
        // SAFETY: a segment that is not written to is mapped from its file, which has the same to give again.
        unsafe { libc::madvise(ptr::without_provenance_mut(start), end - start, libc::MADV_DONTNEED) };
    }
}
