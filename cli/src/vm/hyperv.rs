//! A PowerShell script that makes a machine of Hyper-V and is its console: what `linuxkit run hyperv`
//! does one command after the other (LinuxKit's `src/cmd/linuxkit/run_hyperv.go`).
//!
//! Enters: a machine. Leaves: a script in ASCII, for Windows PowerShell 5.1 and later with Hyper-V's
//! module (`New-VM` and the others, learn.microsoft.com/powershell/module/hyper-v).

/// A machine of Hyper-V's generation 2, which boots by UEFI.
#[derive(Debug, Clone)]
pub(crate) struct HyperV {
    pub(crate) name: String,
    /// What it boots.
    pub(crate) boot: Medium,
    /// In MiB.
    pub(crate) memory: u32,
    pub(crate) cpus: u16,
    /// Further disks: their files, and the MiB of those that are made.
    pub(crate) disks: Vec<(String, Option<u64>)>,
    pub(crate) switch: Switch,
    /// It is left running, and its console to others.
    pub(crate) detached: bool,
}

/// What a machine boots: a file on the Windows machine.
#[derive(Debug, Clone)]
pub(crate) enum Medium {
    Disc(String),
    Disk(String),
}

/// What the network card leads to.
#[derive(Debug, Clone)]
pub(crate) enum Switch {
    /// The one that Windows has by itself, or the first one to the outside.
    Default,
    Named(String),
    /// There is no card.
    None,
}

/// Returns the script.
pub(crate) fn script(machine: &HyperV) -> String {
    let mut parts = vec![BEGIN.to_owned()];
    parts.push(format!("$name = {}\n", literal(&machine.name)));
    let (Medium::Disc(file) | Medium::Disk(file)) = &machine.boot;
    parts.push(format!("$medium = {}\n", existing(file)));
    parts.push(ABSENT.to_owned());
    parts.push(switch(&machine.switch));
    parts.push("try {\n".to_owned());
    let (memory, cpus) = (machine.memory, machine.cpus);
    parts.push(format!(
        "    Set-VM -VM $vm -AutomaticStartAction Nothing -AutomaticStopAction ShutDown -CheckpointType Disabled -MemoryStartupBytes {memory}MB -StaticMemory -ProcessorCount {cpus}\n"
    ));
    parts.push(
        match machine.boot {
            Medium::Disc(_) => "    $first = Add-VMDvdDrive -VM $vm -Path $medium -Passthru\n",
            Medium::Disk(_) => "    $first = Add-VMHardDiskDrive -VM $vm -Path $medium -Passthru\n",
        }
        .to_owned(),
    );
    for (file, size) in &machine.disks {
        let quoted = literal(file);
        parts.push(format!("    $file = {quoted}\n"));
        if let Some(size) = size {
            parts.push(format!(
                "    if (-not (Test-Path -LiteralPath $file)) {{ New-VHD -Path $file -SizeBytes {size}MB -Dynamic | Out-Null }}\n"
            ));
        }
        parts.push(
            "    Add-VMHardDiskDrive -VM $vm -Path (Resolve-Path -LiteralPath $file).ProviderPath\n"
                .to_owned(),
        );
    }
    parts.push(START.to_owned());
    parts.push(
        match machine.detached {
            true => DETACHED,
            false => CONSOLE,
        }
        .to_owned(),
    );
    parts.concat()
}

fn switch(switch: &Switch) -> String {
    match switch {
        Switch::Default => DEFAULT_SWITCH.to_owned(),
        Switch::Named(name) => {
            let quoted = literal(name);
            format!(
                "$wanted = {quoted}\n$switch = Get-VMSwitch | Where-Object {{ $_.Name -eq $wanted }} | Select-Object -First 1\n\
                 if (-not $switch) {{ throw ('there is no switch ' + $wanted) }}\n\
                 $vm = New-VM -Name $name -Generation 2 -NoVHD -SwitchName $switch.Name\n"
            )
        }
        Switch::None => "$vm = New-VM -Name $name -Generation 2 -NoVHD\n\
                         Get-VMNetworkAdapter -VM $vm | Remove-VMNetworkAdapter\n"
            .to_owned(),
    }
}

/// Returns an expression for the full path of a file that is there; in a path as it stands, `[` and
/// `*` mean nothing.
fn existing(file: &str) -> String {
    format!("(Resolve-Path -LiteralPath {}).ProviderPath", literal(file))
}

/// Returns an expression for exactly this text (about_Quoting_Rules: nothing is special between single
/// quotes but a single quote).
///
/// What is not ASCII is written by number: a script without a byte order mark is read in whatever
/// encoding the machine has, where the bytes of a letter may be a quotation mark.
fn literal(text: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut plain = String::new();
    let end = |plain: &mut String, parts: &mut Vec<String>| {
        if !plain.is_empty() {
            parts.push(format!("'{}'", std::mem::take(plain)));
        }
    };
    for unit in text.encode_utf16() {
        match u8::try_from(unit) {
            Ok(b'\'') => plain.push_str("''"),
            Ok(byte @ b' '..=b'~') => plain.push(char::from(byte)),
            _ => {
                end(&mut plain, &mut parts);
                parts.push(format!("[char]{unit}"));
            }
        }
    }
    end(&mut plain, &mut parts);
    match parts.as_slice() {
        [] => "''".to_owned(),
        [one] if one.starts_with('\'') => one.clone(),
        // One string of all, whatever the first is.
        _ => format!("(-join @({}))", parts.join(", ")),
    }
}

const BEGIN: &str = "\
# Makes a machine of Hyper-V. By an administrator or a member of Hyper-V Administrators:
#   powershell -ExecutionPolicy Bypass -File THIS.ps1
$ErrorActionPreference = 'Stop'
Import-Module Hyper-V
";

const ABSENT: &str = "\
if (Get-VM | Where-Object { $_.Name -eq $name }) { throw ('there is a machine ' + $name + ' already: Remove-VM removes it') }
";

const DEFAULT_SWITCH: &str = "\
$switch = Get-VMSwitch | Where-Object { $_.Name -eq 'Default Switch' } | Select-Object -First 1
if (-not $switch) { $switch = Get-VMSwitch -SwitchType External | Select-Object -First 1 }
if (-not $switch) { throw 'there is no switch: make one with New-VMSwitch, or run with --networking none' }
$vm = New-VM -Name $name -Generation 2 -NoVHD -SwitchName $switch.Name
";

const START: &str = "    \
    Set-VMFirmware -VM $vm -EnableSecureBoot Off -FirstBootDevice $first
    Set-VMComPort -VM $vm -Number 1 -Path ('\\\\.\\pipe\\' + $name + '-com1')
    Start-VM -VM $vm
";

const DETACHED: &str = "\
} catch {
    Remove-VM -VM $vm -Force
    throw
}
Write-Output $name
";

/// Ctrl-] ends the machine; every other key is the machine's.
const CONSOLE: &str = "    \
    $pipe = New-Object System.IO.Pipes.NamedPipeClientStream('.', ($name + '-com1'), 'InOut', 'Asynchronous')
    $pipe.Connect(10000)
    $screen = [Console]::OpenStandardOutput()
    $buffer = New-Object byte[] 4096
    $read = $pipe.ReadAsync($buffer, 0, $buffer.Length)
    $keys = -not [Console]::IsInputRedirected
    if ($keys) { [Console]::TreatControlCAsInput = $true }
    # What a terminal sends for keys that are no characters, behind ESC [
    $codes = @{ UpArrow = 'A'; DownArrow = 'B'; RightArrow = 'C'; LeftArrow = 'D'; Home = 'H'; End = 'F'; Insert = '2~'; Delete = '3~'; PageUp = '5~'; PageDown = '6~' }
    $half = ''
    $over = $false
    while (-not $over) {
        try {
            if ($read.Wait(20)) {
                if ($read.Result -le 0) { break }
                $screen.Write($buffer, 0, $read.Result)
                $screen.Flush()
                $read = $pipe.ReadAsync($buffer, 0, $buffer.Length)
            }
        } catch [AggregateException] {
            # The machine has ended, and its line with it.
            break
        }
        while ($keys -and -not $over -and [Console]::KeyAvailable) {
            $key = [Console]::ReadKey($true)
            $over = $key.KeyChar -eq [char]29
            $code = $codes[[string]$key.Key]
            if ($code) { $text = -join @([char]27, '[', $code) }
            elseif ($key.KeyChar -eq [char]8) { $text = [string][char]127 }
            elseif ($key.KeyChar -eq [char]0) { continue }
            else { $text = $half + $key.KeyChar }
            # Half of a character that takes two
            if ([char]::IsHighSurrogate($key.KeyChar)) { $half = $text; continue }
            $half = ''
            $typed = [Text.Encoding]::UTF8.GetBytes($text)
            if (-not $over) { $pipe.Write($typed, 0, $typed.Length) }
        }
    }
} finally {
    if (-not [Console]::IsInputRedirected) { [Console]::TreatControlCAsInput = $false }
    if ($vm.State -ne 'Off') { Stop-VM -VM $vm -TurnOff -Force -WarningAction SilentlyContinue }
    Remove-VM -VM $vm -Force
}
";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn machine() -> HyperV {
        HyperV {
            name: "box".into(),
            boot: Medium::Disc("C:\\it's\\box.iso".into()),
            memory: 1024,
            cpus: 2,
            disks: vec![("data.vhdx".into(), Some(512)), ("old.vhdx".into(), None)],
            switch: Switch::Default,
            detached: false,
        }
    }

    #[test]
    fn a_machine_is_a_script() {
        insta::assert_snapshot!(script(&machine()), @r#"
        # Makes a machine of Hyper-V. By an administrator or a member of Hyper-V Administrators:
        #   powershell -ExecutionPolicy Bypass -File THIS.ps1
        $ErrorActionPreference = 'Stop'
        Import-Module Hyper-V
        $name = 'box'
        $medium = (Resolve-Path -LiteralPath 'C:\it''s\box.iso').ProviderPath
        if (Get-VM | Where-Object { $_.Name -eq $name }) { throw ('there is a machine ' + $name + ' already: Remove-VM removes it') }
        $switch = Get-VMSwitch | Where-Object { $_.Name -eq 'Default Switch' } | Select-Object -First 1
        if (-not $switch) { $switch = Get-VMSwitch -SwitchType External | Select-Object -First 1 }
        if (-not $switch) { throw 'there is no switch: make one with New-VMSwitch, or run with --networking none' }
        $vm = New-VM -Name $name -Generation 2 -NoVHD -SwitchName $switch.Name
        try {
            Set-VM -VM $vm -AutomaticStartAction Nothing -AutomaticStopAction ShutDown -CheckpointType Disabled -MemoryStartupBytes 1024MB -StaticMemory -ProcessorCount 2
            $first = Add-VMDvdDrive -VM $vm -Path $medium -Passthru
            $file = 'data.vhdx'
            if (-not (Test-Path -LiteralPath $file)) { New-VHD -Path $file -SizeBytes 512MB -Dynamic | Out-Null }
            Add-VMHardDiskDrive -VM $vm -Path (Resolve-Path -LiteralPath $file).ProviderPath
            $file = 'old.vhdx'
            Add-VMHardDiskDrive -VM $vm -Path (Resolve-Path -LiteralPath $file).ProviderPath
            Set-VMFirmware -VM $vm -EnableSecureBoot Off -FirstBootDevice $first
            Set-VMComPort -VM $vm -Number 1 -Path ('\\.\pipe\' + $name + '-com1')
            Start-VM -VM $vm
            $pipe = New-Object System.IO.Pipes.NamedPipeClientStream('.', ($name + '-com1'), 'InOut', 'Asynchronous')
            $pipe.Connect(10000)
            $screen = [Console]::OpenStandardOutput()
            $buffer = New-Object byte[] 4096
            $read = $pipe.ReadAsync($buffer, 0, $buffer.Length)
            $keys = -not [Console]::IsInputRedirected
            if ($keys) { [Console]::TreatControlCAsInput = $true }
            # What a terminal sends for keys that are no characters, behind ESC [
            $codes = @{ UpArrow = 'A'; DownArrow = 'B'; RightArrow = 'C'; LeftArrow = 'D'; Home = 'H'; End = 'F'; Insert = '2~'; Delete = '3~'; PageUp = '5~'; PageDown = '6~' }
            $half = ''
            $over = $false
            while (-not $over) {
                try {
                    if ($read.Wait(20)) {
                        if ($read.Result -le 0) { break }
                        $screen.Write($buffer, 0, $read.Result)
                        $screen.Flush()
                        $read = $pipe.ReadAsync($buffer, 0, $buffer.Length)
                    }
                } catch [AggregateException] {
                    # The machine has ended, and its line with it.
                    break
                }
                while ($keys -and -not $over -and [Console]::KeyAvailable) {
                    $key = [Console]::ReadKey($true)
                    $over = $key.KeyChar -eq [char]29
                    $code = $codes[[string]$key.Key]
                    if ($code) { $text = -join @([char]27, '[', $code) }
                    elseif ($key.KeyChar -eq [char]8) { $text = [string][char]127 }
                    elseif ($key.KeyChar -eq [char]0) { continue }
                    else { $text = $half + $key.KeyChar }
                    # Half of a character that takes two
                    if ([char]::IsHighSurrogate($key.KeyChar)) { $half = $text; continue }
                    $half = ''
                    $typed = [Text.Encoding]::UTF8.GetBytes($text)
                    if (-not $over) { $pipe.Write($typed, 0, $typed.Length) }
                }
            }
        } finally {
            if (-not [Console]::IsInputRedirected) { [Console]::TreatControlCAsInput = $false }
            if ($vm.State -ne 'Off') { Stop-VM -VM $vm -TurnOff -Force -WarningAction SilentlyContinue }
            Remove-VM -VM $vm -Force
        }
        "#);
    }

    #[test]
    fn a_machine_in_the_background_is_another() {
        let machine = HyperV {
            boot: Medium::Disk("box.vhdx".into()),
            switch: Switch::Named("LAN".into()),
            disks: Vec::new(),
            detached: true,
            ..machine()
        };
        insta::assert_snapshot!(script(&machine), @r#"
        # Makes a machine of Hyper-V. By an administrator or a member of Hyper-V Administrators:
        #   powershell -ExecutionPolicy Bypass -File THIS.ps1
        $ErrorActionPreference = 'Stop'
        Import-Module Hyper-V
        $name = 'box'
        $medium = (Resolve-Path -LiteralPath 'box.vhdx').ProviderPath
        if (Get-VM | Where-Object { $_.Name -eq $name }) { throw ('there is a machine ' + $name + ' already: Remove-VM removes it') }
        $wanted = 'LAN'
        $switch = Get-VMSwitch | Where-Object { $_.Name -eq $wanted } | Select-Object -First 1
        if (-not $switch) { throw ('there is no switch ' + $wanted) }
        $vm = New-VM -Name $name -Generation 2 -NoVHD -SwitchName $switch.Name
        try {
            Set-VM -VM $vm -AutomaticStartAction Nothing -AutomaticStopAction ShutDown -CheckpointType Disabled -MemoryStartupBytes 1024MB -StaticMemory -ProcessorCount 2
            $first = Add-VMHardDiskDrive -VM $vm -Path $medium -Passthru
            Set-VMFirmware -VM $vm -EnableSecureBoot Off -FirstBootDevice $first
            Set-VMComPort -VM $vm -Number 1 -Path ('\\.\pipe\' + $name + '-com1')
            Start-VM -VM $vm
        } catch {
            Remove-VM -VM $vm -Force
            throw
        }
        Write-Output $name
        "#);
        let without = HyperV {
            switch: Switch::None,
            ..machine
        };
        let script = script(&without);
        assert!(script.contains("| Remove-VMNetworkAdapter\n"), "{script}");
        assert!(!script.contains("Switch"), "{script}");
    }

    #[test]
    fn texts_are_data_whatever_is_in_them() {
        for (text, expected) in [
            ("", "''"),
            ("a b", "'a b'"),
            ("a'; Remove-Item C:\\ #", "'a''; Remove-Item C:\\ #'"),
            ("$(calc) `n \"", "'$(calc) `n \"'"),
            // Quotation marks to PowerShell, as they are or by their bytes in another encoding.
            ("a\u{2019}b", "(-join @('a', [char]8217, 'b'))"),
            ("\u{d2}", "(-join @([char]210))"),
            ("\u{1f600}", "(-join @([char]55357, [char]56832))"),
            ("a\nb", "(-join @('a', [char]10, 'b'))"),
        ] {
            assert_eq!(literal(text), expected);
        }
    }

    proptest! {
        /// Read as PowerShell reads it, every text is itself.
        #[test]
        fn literals_are_what_they_were(text: String) {
            let literal = literal(&text);
            prop_assert!(literal.is_ascii() && !literal.contains('\n'));
            let list = literal.strip_prefix("(-join @(").and_then(|rest| rest.strip_suffix("))"));
            let (mut rest, mut units) = (list.unwrap_or(&literal), Vec::new());
            while !rest.is_empty() {
                if let Some(quoted) = rest.strip_prefix('\'') {
                    let mut quoted = quoted;
                    loop {
                        let end = quoted.find('\'').expect("an end");
                        units.extend(quoted[..end].encode_utf16());
                        quoted = &quoted[end + 1..];
                        match quoted.strip_prefix('\'') {
                            Some(more) => {
                                units.push(u16::from(b'\''));
                                quoted = more;
                            }
                            None => break,
                        }
                    }
                    rest = quoted;
                } else {
                    let number = rest.strip_prefix("[char]").expect("a number");
                    let end = number.find(',').unwrap_or(number.len());
                    units.push(number[..end].parse().unwrap());
                    rest = &number[end..];
                }
                rest = rest.strip_prefix(", ").unwrap_or(rest);
            }
            prop_assert_eq!(String::from_utf16(&units).unwrap(), text);
        }
    }
}
