//! Which functions of a linked executable can reach which.
//!
//! Direct calls and jumps are edges. A function that takes the address of another, or of data that holds one (a vtable,
//! a table of handlers), has an edge to it: whoever holds the address might call it. That errs on the safe side, but for
//! an address that one function takes and leaves in memory for another to call: hence functions that call pointers are
//! known as such.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use crate::elf64::{Function, Image};

/// Functions and data objects as nodes: the functions come first, then the objects.
pub struct CallGraph {
    /// The functions, sorted by address.
    pub functions: Vec<Function>,
    /// For each node, the nodes with an edge to it.
    callers: Vec<Vec<usize>>,
    /// For each function, whether it calls something whose address it has from elsewhere.
    calls_pointers: Vec<bool>,
}

impl CallGraph {
    /// Disassembles all functions of `image`.
    pub fn build(image: &Image) -> CallGraph {
        CallGraph::build_with(image, image.functions())
    }

    fn build_with(image: &Image, functions: Vec<Function>) -> CallGraph {
        let code: Vec<References> = functions
            .iter()
            .map(|function| references(image, function))
            .collect();
        let objects = objects(image, &code);
        let mut graph = CallGraph {
            callers: vec![Vec::new(); functions.len() + objects.len()],
            calls_pointers: code.iter().map(|code| code.calls_pointers).collect(),
            functions,
        };

        for (from, references) in code.iter().enumerate() {
            for &target in references.branches.iter().chain(&references.addresses) {
                graph.add_edge(from, graph.function_at(target));
            }
            for &address in &references.addresses {
                graph.add_edge(
                    from,
                    object_at(&objects, address).map(|index| graph.functions.len() + index),
                );
            }
            for access in &references.accesses {
                graph.add_edges_of_words(from, image, access.clone(), &objects);
            }
        }
        for (index, object) in objects.iter().enumerate() {
            let from = graph.functions.len() + index;
            graph.add_edges_of_words(from, image, object.clone(), &objects);
        }
        for callers in &mut graph.callers {
            callers.sort_unstable();
            callers.dedup();
        }
        graph
    }

    /// The functions from which one of `roots` can be reached, each with the next step on a shortest way there. The
    /// callers of a function for which `is_barrier` holds are not followed.
    pub fn reaching(
        &self,
        is_root: impl Fn(&Function) -> bool,
        is_barrier: impl Fn(&Function) -> bool,
    ) -> Vec<(usize, usize)> {
        let roots: Vec<usize> = (0..self.functions.len())
            .filter(|&node| self.functions.get(node).is_some_and(&is_root))
            .collect();
        let mut next: Vec<Option<usize>> = vec![None; self.callers.len()];
        let mut queue: VecDeque<usize> = roots.iter().copied().collect();
        while let Some(node) = queue.pop_front() {
            let is_origin = roots.contains(&node);
            if !is_origin && self.functions.get(node).is_some_and(&is_barrier) {
                continue;
            }
            for &caller in self.callers.get(node).into_iter().flatten() {
                if let Some(step) = next.get_mut(caller).filter(|step| step.is_none())
                    && !roots.contains(&caller)
                {
                    *step = Some(node);
                    queue.push_back(caller);
                }
            }
        }
        let through_objects = |mut node: usize| {
            while node >= self.functions.len() {
                match next.get(node).copied().flatten() {
                    Some(step) => node = step,
                    None => break,
                }
            }
            node
        };
        let found = next.iter().take(self.functions.len()).enumerate();
        found
            .filter_map(|(node, step)| Some((node, through_objects((*step)?))))
            .collect()
    }

    /// The functions that can be reached from those for which `is_root` holds, each with the step before on a shortest way
    /// (none for the roots). What a function for which `is_barrier` holds calls is not followed.
    pub fn reached(
        &self,
        is_root: impl Fn(&Function) -> bool,
        is_barrier: impl Fn(&Function) -> bool,
    ) -> Vec<(usize, Option<usize>)> {
        let mut callees = vec![Vec::new(); self.callers.len()];
        for (callee, callers) in self.callers.iter().enumerate() {
            for &caller in callers {
                if let Some(callees) = callees.get_mut(caller) {
                    callees.push(callee);
                }
            }
        }
        let roots = self.functions.iter().enumerate();
        let roots = roots.filter(|(_, function)| is_root(function));
        let mut before: BTreeMap<usize, Option<usize>> =
            roots.map(|(node, _)| (node, None)).collect();
        let mut queue: VecDeque<usize> = before.keys().copied().collect();
        while let Some(node) = queue.pop_front() {
            if self.functions.get(node).is_some_and(&is_barrier) {
                continue;
            }
            for &callee in callees.get(node).into_iter().flatten() {
                before.entry(callee).or_insert_with(|| {
                    queue.push_back(callee);
                    Some(node)
                });
            }
        }
        let is_function = |node: usize| node < self.functions.len();
        let through_objects = |mut node: usize| {
            while !is_function(node) {
                node = before.get(&node).copied().flatten()?;
            }
            Some(node)
        };
        let found = before.iter().filter(|(node, _)| is_function(**node));
        found
            .map(|(&node, &step)| (node, step.and_then(through_objects)))
            .collect()
    }

    /// Whether the function calls something whose address it has from elsewhere.
    pub fn calls_pointers(&self, function: usize) -> bool {
        self.calls_pointers
            .get(function)
            .is_some_and(|calls| *calls)
    }

    /// Edges to the functions and objects whose addresses are in a range of data.
    fn add_edges_of_words(
        &mut self,
        from: usize,
        image: &Image,
        range: Range<u64>,
        objects: &[Range<u64>],
    ) {
        for word in words(image, range) {
            // Numbers that happen to lie inside a function are no function pointers.
            let is_start = |node: &usize| {
                let function = self.functions.get(*node);
                function.is_some_and(|function| function.address == word)
            };
            let function = self.function_at(word).filter(is_start);
            self.add_edge(from, function);
            let object = object_at(objects, word);
            self.add_edge(from, object.map(|index| self.functions.len() + index));
        }
    }

    fn add_edge(&mut self, from: usize, to: Option<usize>) {
        if let Some(callers) = to
            .filter(|&to| to != from)
            .and_then(|to| self.callers.get_mut(to))
        {
            callers.push(from);
        }
    }

    /// The function that holds the address.
    fn function_at(&self, address: u64) -> Option<usize> {
        let index = self
            .functions
            .partition_point(|function| function.address <= address)
            .checked_sub(1)?;
        let function = self.functions.get(index)?;
        (address < function.address + function.size).then_some(index)
    }
}

/// What a function's code refers to.
struct References {
    /// Targets of direct calls and jumps.
    branches: Vec<u64>,
    /// Addresses of anything that are taken.
    addresses: Vec<u64>,
    /// Data that is read or written at a fixed place.
    accesses: Vec<Range<u64>>,
    /// Whether there is a call or jump to an address that is not in the code.
    calls_pointers: bool,
}

fn references(image: &Image, function: &Function) -> References {
    let mut references = References {
        branches: Vec::new(),
        addresses: Vec::new(),
        accesses: Vec::new(),
        calls_pointers: false,
    };
    let bytes = image.section_at(function.address).and_then(|section| {
        let start = usize::try_from(function.address - section.virt).ok()?;
        section
            .bytes
            .get(start..start + usize::try_from(function.size).ok()?)
    });
    let mut decoder = Decoder::with_ip(
        64,
        bytes.unwrap_or_default(),
        function.address,
        DecoderOptions::NONE,
    );
    let mut instruction = Instruction::default();
    let mut written_by = BTreeMap::new();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        references.calls_pointers |= is_pointer_call(&instruction, &written_by);
        if !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test) {
            written_by.insert(
                instruction.op0_register().full_register(),
                instruction.mnemonic(),
            );
        }
        if instruction.is_ip_rel_memory_operand() {
            let address = instruction.ip_rel_memory_address();
            if instruction.mnemonic() == Mnemonic::Lea {
                references.addresses.push(address);
            } else {
                let size = instruction.memory_size().size().max(8) as u64;
                references.accesses.push(address..address + size);
            }
        }
        for operand in 0..instruction.op_count() {
            match instruction.op_kind(operand) {
                OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                    references.branches.push(instruction.near_branch_target())
                }
                OpKind::Immediate64 | OpKind::Immediate32to64 | OpKind::Immediate32 => {
                    references.addresses.push(instruction.immediate(operand))
                }
                _ => {}
            }
        }
    }
    references
}

/// Whether an instruction goes where a register or a word of memory says. The jumps that compilers make from `match`, within
/// a function, do not count: their last step is to add an offset from a table to its address. `written_by` says which
/// instruction has last written a register.
fn is_pointer_call(instruction: &Instruction, written_by: &BTreeMap<Register, Mnemonic>) -> bool {
    let is_fixed = instruction.is_ip_rel_memory_operand();
    match instruction.flow_control() {
        FlowControl::IndirectCall => !is_fixed,
        FlowControl::IndirectBranch => {
            let last_step = written_by.get(&instruction.op0_register());
            !is_fixed && last_step != Some(&Mnemonic::Add)
        }
        _ => false,
    }
}

/// The data of the image, cut where anything takes an address: compilers leave few names on it.
fn objects(image: &Image, code: &[References]) -> Vec<Range<u64>> {
    let data = || image.sections.iter().filter(|section| !section.is_code);
    let mut starts: BTreeSet<u64> = image
        .objects()
        .into_iter()
        .map(|(address, _)| address)
        .collect();
    starts.extend(
        code.iter()
            .flat_map(|references| references.addresses.iter().copied()),
    );
    starts
        .extend(data().flat_map(|section| words(image, section.virt..section.virt + section.size)));
    let mut objects = Vec::new();
    for section in data() {
        let end = section.virt + section.size;
        let mut at = section.virt;
        for &start in starts.range(section.virt + 1..end) {
            objects.push(at..start);
            at = start;
        }
        objects.push(at..end);
    }
    objects
}

fn object_at(objects: &[Range<u64>], address: u64) -> Option<usize> {
    let index = objects
        .partition_point(|object| object.start <= address)
        .checked_sub(1)?;
    objects
        .get(index)
        .filter(|object| object.contains(&address))
        .map(|_| index)
}

/// The aligned words of a range of data that could be addresses of the image.
fn words<'a>(image: &'a Image, range: Range<u64>) -> impl Iterator<Item = u64> + 'a {
    let lowest = image
        .sections
        .first()
        .map_or(0, |section| section.virt)
        .max(4096);
    let bytes = image.section_at(range.start).and_then(|section| {
        let start = range.start.next_multiple_of(8).checked_sub(section.virt)?;
        section
            .bytes
            .get(usize::try_from(start).ok()?..)
            .map(|bytes| {
                let len = range.end.saturating_sub(section.virt + start);
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                bytes.get(..len).unwrap_or(bytes)
            })
    });
    let words = bytes
        .unwrap_or_default()
        .chunks_exact(8)
        .filter_map(|word| word.try_into().ok())
        .map(u64::from_le_bytes);
    words.filter(move |&word| word >= lowest && image.section_at(word).is_some())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::elf64::Section;

    const CODE: u64 = 0x10_0000;
    const DATA: u64 = 0x20_0000;

    /// The graph of functions of 16 bytes each and of words of data; what is left of a function is filled with `int3`.
    pub fn graph_of(functions: &[(&str, Vec<u8>)], data: &[u64]) -> CallGraph {
        let code = functions
            .iter()
            .flat_map(|(_, code)| code.iter().copied().chain([0xcc; 16]).take(16));
        let code: Vec<u8> = code.collect();
        let data: Vec<u8> = data.iter().flat_map(|word| word.to_le_bytes()).collect();
        let elf = crate::container::tests::elf64(CODE, &[]);
        let mut image = Image::parse(&elf).unwrap();
        let section = |virt, bytes, is_code| Section {
            name: "",
            virt,
            size: <[u8]>::len(bytes) as u64,
            file: 0..0,
            bytes,
            is_code,
            is_writable: false,
        };
        image.sections = vec![
            section(CODE, code.as_slice(), true),
            section(DATA, data.as_slice(), false),
        ];
        let named = functions.iter().zip((CODE..).step_by(16));
        let named = named.map(|((name, _), address)| Function {
            address,
            size: 16,
            name: name.to_string(),
        });
        CallGraph::build_with(&image, named.collect())
    }

    /// What reaches the function `panic`, with the next step on the way.
    fn graph(functions: &[(&str, Vec<u8>)], data: &[u64]) -> Vec<(String, String)> {
        let graph = graph_of(functions, data);
        let name = |node: usize| graph.functions[node].name.clone();
        let is_panic = |function: &Function| function.name == "panic";
        let is_barrier = |function: &Function| function.name.starts_with("barrier");
        graph
            .reaching(is_panic, is_barrier)
            .into_iter()
            .map(|(node, step)| (name(node), name(step)))
            .collect()
    }

    /// `call` or `jmp` from the function with number `from` to that with number `to`.
    pub fn branch(opcode: u8, from: i32, to: i32) -> Vec<u8> {
        [vec![opcode], (16 * (to - from) - 5).to_le_bytes().to_vec()].concat()
    }

    /// `lea rax, [address]` in the function with number `from`.
    fn lea(from: u64, address: u64) -> Vec<u8> {
        let distance = address.wrapping_sub(CODE + 16 * from + 7) as u32;
        [vec![0x48, 0x8d, 0x05], distance.to_le_bytes().to_vec()].concat()
    }

    /// `mov rax, [address]` in the function with number `from`.
    fn load(from: u64, address: u64) -> Vec<u8> {
        let mut code = lea(from, address);
        code[1] = 0x8b;
        code
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected
            .iter()
            .map(|(name, step)| (name.to_string(), step.to_string()))
            .collect()
    }

    #[test]
    fn calls_and_tail_calls_are_followed() {
        let found = graph(
            &[
                ("panic", vec![]),
                ("a", branch(0xe8, 1, 0)),
                ("b", branch(0xe9, 2, 1)),
                ("c", vec![0xc3]),
                ("d", branch(0xe8, 4, 3)),
            ],
            &[],
        );
        assert_eq!(found, pairs(&[("a", "panic"), ("b", "a")]));
    }

    #[test]
    fn a_barrier_is_found_but_not_its_callers() {
        let found = graph(
            &[
                ("panic", vec![]),
                ("barrier", branch(0xe8, 1, 0)),
                ("b", branch(0xe8, 2, 1)),
            ],
            &[],
        );
        assert_eq!(found, pairs(&[("barrier", "panic")]));
    }

    #[test]
    fn an_access_counts_for_its_own_word_and_cuts_nothing() {
        // f takes the address of a table whose second word is a; g reads the first word of it, h the second.
        let functions = [
            ("panic", vec![]),
            ("a", branch(0xe8, 1, 0)),
            ("f", lea(2, DATA)),
            ("g", load(3, DATA)),
            ("h", load(4, DATA + 8)),
        ];
        let found = graph(&functions, &[7, CODE + 16]);
        assert_eq!(found, pairs(&[("a", "panic"), ("f", "a"), ("h", "a")]));
    }

    #[test]
    fn calls_of_pointers_are_told_from_matches() {
        let jump = [0xff, 0xe0]; // jmp rax
        let add = [0x48, 0x01, 0xd0]; // add rax, rdx
        let load = [0x48, 0x8b, 0x07]; // mov rax, [rdi]
        for (code, calls_pointers) in [
            ([add.as_slice(), &jump].concat(), false),
            ([add.as_slice(), &[0x48, 0xff, 0xc3], &jump].concat(), false), // inc rbx between
            ([load.as_slice(), &jump].concat(), true),
            ([add.as_slice(), &load, &jump].concat(), true),
            (jump.to_vec(), true),
            (vec![0xff, 0xd0], true),              // call rax
            (vec![0xff, 0x50, 0x18], true),        // call [rax + 24]
            (vec![0xff, 0x15, 0, 0, 0, 0], false), // call [rip]
            (branch(0xe8, 0, 1), false),
        ] {
            let graph = graph_of(&[("f", code.clone()), ("g", vec![])], &[0]);
            assert_eq!(graph.calls_pointers(0), calls_pointers, "{code:x?}");
        }
    }

    #[test]
    fn addresses_in_code_and_data_count_as_calls() {
        // f takes the address of a; g that of a table whose second word leads to another table that holds a.
        let functions = [
            ("panic", vec![]),
            ("a", branch(0xe8, 1, 0)),
            ("f", lea(2, CODE + 16)),
            ("g", lea(3, DATA)),
            ("h", lea(4, DATA + 24)),
            ("i", lea(5, DATA + 8)),
        ];
        let found = graph(&functions, &[7, DATA + 16, CODE + 16, CODE + 24]);
        // The cut at DATA + 8, which i refers to, leaves nothing in the object of g.
        assert_eq!(found, pairs(&[("a", "panic"), ("f", "a"), ("i", "a")]));
    }
}
